"""Log probabilities by the model's own logits, of the rows that report them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handlers.chat.engines.transformers.device_inputs import DeviceInputs
from handlers.chat.engines.transformers.logprobs import SampledLogprob
from handlers.chat.engines.transformers.sampling.sampler import Sampler

_MAX_TOP_LOGPROBS = 20  # the most that a request may ask for: what a row gets does not depend on what others ask for


class RawLogprobs:
    """The log probabilities of one step.

    Args:
        samplers: The samplers of all rows.
        inputs: Receives the indices of the rows that report log probabilities.
    """

    def __init__(self, samplers: Sequence[Sampler], inputs: DeviceInputs) -> None:
        self._counts = {row: sampler.top_logprobs for row, sampler in enumerate(samplers) if sampler.top_logprobs is not None}
        self._indices = inputs.integers(list(self._counts)) if self._counts else None
        self._most = _MAX_TOP_LOGPROBS if any(self._counts.values()) else 0
        self._all = torch.empty(0)

    def take(self, logits: Tensor) -> None:
        """Takes the log probabilities from logits that have not been changed, rows × vocabulary."""
        if self._indices is not None:
            self._all = logits[self._indices()].log_softmax(-1)

    def of(self, tokens: Tensor) -> Tensor:
        """Returns what `parse` reads, int64: for each row the value of the sampled token, and ids and values of the likeliest ones."""
        if self._indices is None:
            return tokens[:0]
        own = self._all.gather(1, tokens[self._indices()][:, None].clamp(min=0))
        values, ids = self._all.topk(min(self._most, self._all.shape[1]))
        return torch.cat((own.double().view(torch.int64), ids, values.double().view(torch.int64)), 1).flatten()

    def parse(self, numbers: NDArray[np.int64], tokens: Sequence[int]) -> dict[int, SampledLogprob]:
        """Returns the log probability of each row that reports it, by its index.

        Args:
            numbers: The result of `of`, on the host.
            tokens: The tokens that were sampled, of all rows.
        """
        if not self._counts:
            return {}
        table = numbers.reshape(len(self._counts), -1)
        most = table.shape[1] // 2  # fewer than were asked for if the vocabulary has no more
        values = table.view(np.float64)
        return {
            row: SampledLogprob(
                tokens[row],
                float(values[index, 0]),
                tuple(zip(table[index, 1 : 1 + count].tolist(), values[index, 1 + most : 1 + most + count].tolist(), strict=True)),
            )
            for index, (row, count) in enumerate((row, min(count, most)) for row, count in self._counts.items())
        }
