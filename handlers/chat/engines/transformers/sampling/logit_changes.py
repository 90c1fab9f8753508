"""Changes the logits of a batch as requests ask for it: biases, penalties, bans and grammars, for all rows at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handlers.chat.engines.transformers.containment import Containment
from handlers.chat.engines.transformers.device_inputs import DeviceInputs
from handlers.chat.engines.transformers.sampling.penalties import apply_penalties
from handlers.chat.engines.transformers.sampling.sampler import Sampler

_Array = NDArray[Any]


class LogitChanges:
    """The changes of one step.

    Args:
        samplers: The samplers of the rows.
        containments: Receives the error of a row whose parameters are at fault.
        vocabulary_size: The columns of the logits. Tokens from here on are left alone.
        inputs: Receives what is needed on the device.
    """

    def __init__(
        self, samplers: Sequence[Sampler], containments: Sequence[Containment], vocabulary_size: int, inputs: DeviceInputs
    ) -> None:
        penalties: list[tuple[int, tuple[_Array, ...]]] = []
        for row, (sampler, contained) in enumerate(zip(samplers, containments, strict=True)):
            with contained:
                penalties.append((row, sampler.penalties.entries()))
        self._biases = _entries([(row, (each.bias_ids, each.biases)) for row, each in enumerate(samplers)], vocabulary_size, inputs)
        self._penalties = _entries(penalties, vocabulary_size, inputs)
        self._bans = _entries([(row, (each.banned_ids,)) for row, each in enumerate(samplers)], vocabulary_size, inputs)

    def apply(self, logits: Tensor) -> None:
        """Changes logits in place, rows × vocabulary."""
        if self._biases is not None:
            rows, ids, biases = self._biases()
            logits[rows, ids] += biases.float()
        if self._penalties is not None:
            apply_penalties(logits, *self._penalties())
        if self._bans is not None:
            rows, ids = self._bans()
            logits[rows, ids] = -torch.inf


def _entries(
    rows: Sequence[tuple[int, tuple[_Array, ...]]], vocabulary_size: int, inputs: DeviceInputs
) -> Callable[[], tuple[Tensor, ...]] | None:
    """Joins tokens of several rows. Returns a function that returns the row of each, its id and its values; None if there is none.

    Args:
        rows: For each row its index, token ids and values.
        vocabulary_size: Greater ids are left out.
        inputs: Receives the joined arrays.
    """
    if not any(len(arrays[0]) for _, arrays in rows):
        return None
    ids, *values = (np.concatenate(column) for column in zip(*(arrays for _, arrays in rows), strict=True))
    kept = ids < vocabulary_size
    indices = np.repeat([row for row, _ in rows], [len(arrays[0]) for _, arrays in rows])
    parts = [inputs.integers(indices[kept]), inputs.integers(ids[kept]), *(inputs.floats(column[kept]) for column in values)]
    return lambda: tuple(part() for part in parts)


class GrammarMasks:
    """Excludes the tokens that grammars do not allow. The masks are computed while the device computes the logits, and copied on their own.

    Args:
        samplers: The samplers of the rows.
        inputs: Receives the indices of the rows that have a grammar.
    """

    def __init__(self, samplers: Sequence[Sampler], inputs: DeviceInputs) -> None:
        self._samplers = samplers
        self._rows = [row for row, sampler in enumerate(samplers) if sampler.grammar is not None]
        self._indices = inputs.integers(self._rows) if self._rows else None

    def apply(self, logits: Tensor, containments: Sequence[Containment]) -> None:
        """Changes logits in place, rows × vocabulary. The failure of a grammar is that of its row."""
        if self._indices is None:
            return
        rows, size = self._indices(), logits.shape[1]
        masks = np.full((len(self._rows), -(-size // 64) * 8), 255, np.uint8)  # whole numbers of 8 bytes
        for mask, row in zip(masks, self._rows, strict=True):
            with containments[row]:
                allowed = self._samplers[row].grammar_mask(size)
                if allowed is not None:
                    mask[: len(allowed)] = allowed
        inputs = DeviceInputs(logits.device)
        packed = inputs.integers(masks.view(np.int64))().view(torch.uint8)
        bits = packed[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=logits.device) & 1
        logits[rows] = logits[rows].masked_fill(bits.flatten(1)[:, :size] == 0, -torch.inf)
