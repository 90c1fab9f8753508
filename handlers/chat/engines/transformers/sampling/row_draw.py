"""Draws the tokens of those rows of a batch that are drawn in the same way."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from handlers.chat.engines.transformers.device_inputs import DeviceInputs
from handlers.chat.engines.transformers.sampling.draw import draw, draw_from_nucleus, filter_row, temper
from handlers.chat.engines.transformers.sampling.sampler import Sampler


class RowDraw:
    """Draws the tokens of some rows.

    Args:
        rows: Their indices.
        samplers: The samplers of all rows of the batch.
        inputs: Receives what is needed on the device.
        top_k: How many of the likeliest tokens are sorted; None: the rows have no nucleus.
    """

    def __init__(self, rows: Sequence[int], samplers: Sequence[Sampler], inputs: DeviceInputs, top_k: int | None) -> None:
        self._samplers = [samplers[row] for row in rows]
        self._top_k = top_k
        self._rows = inputs.integers(rows) if len(rows) < len(samplers) else None
        self._temperature = inputs.floats([[sampler.temperature] for sampler in self._samplers])
        self._top_p = inputs.floats([[sampler.top_p] for sampler in self._samplers])
        self._uniform = inputs.floats([[sampler.uniform] for sampler in self._samplers])

    def into(self, tokens: Tensor, logits: Tensor) -> Tensor:
        """Returns the tokens with those of these rows replaced.

        Args:
            tokens: One of each row of the batch, int64.
            logits: Rows × vocabulary.
        """
        if self._rows is None:
            return self._drawn(logits)
        rows = self._rows()
        return tokens.index_copy(0, rows, self._drawn(logits[rows]))

    def _drawn(self, logits: Tensor) -> Tensor:
        probabilities = temper(logits, self._temperature().float())
        for row, sampler in enumerate(self._samplers):
            if sampler.top_k > 0 or sampler.min_p > 0:
                filter_row(probabilities[row], sampler.top_k, sampler.min_p)
        if self._top_k is None:
            return draw(probabilities, self._uniform())
        return draw_from_nucleus(probabilities, self._top_p(), self._uniform(), self._top_k)
