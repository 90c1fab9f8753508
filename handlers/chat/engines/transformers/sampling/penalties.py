"""Repetition, presence and frequency penalties."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handlers.chat.request import ChatRequest


class TokenPenalties:
    """The tokens of one sequence that are penalised.

    Repetition penalty: CTRL (arXiv 1909.05858, section 4.1). Presence and frequency penalty: OpenAI's API reference.

    Args:
        request: The penalties.
        prompt: The prompt's token ids, to which the repetition penalty applies, too.
    """

    def __init__(self, request: ChatRequest, prompt: Sequence[int]) -> None:
        self._repetition = request.repetition_penalty
        self._presence, self._frequency = request.presence_penalty, request.frequency_penalty
        seen = dict.fromkeys(prompt) if self._repetition != 1.0 else {}
        self._positions = {token: position for position, token in enumerate(seen)}
        # Both grow by doubling, so that a token costs the same however many came before.
        self._ids = np.fromiter(seen, np.int64, len(seen))
        self._counts = np.zeros(len(seen), np.int64)

    def accept(self, token: int) -> None:
        """Counts a generated token."""
        if not self._active:
            return
        position = self._positions.setdefault(token, len(self._positions))
        if position == len(self._ids):
            self._ids, self._counts = (np.pad(array, (0, max(16, position))) for array in (self._ids, self._counts))
        self._ids[position] = token
        self._counts[position] += 1

    def entries(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Returns the ids of the penalised tokens, and for each the divisor of its logit and what is subtracted from it."""
        count = len(self._positions) if self._active else 0
        counts = self._counts[:count]
        subtrahends = np.where(counts > 0, self._presence + self._frequency * counts, 0.0)
        return self._ids[:count], np.full(count, self._repetition, np.float64), subtrahends

    @property
    def _active(self) -> bool:
        return self._repetition != 1.0 or bool(self._presence) or bool(self._frequency)


def apply_penalties(logits: Tensor, rows: Tensor, ids: Tensor, divisors: Tensor, subtrahends: Tensor) -> None:
    """Penalises tokens in place.

    Args:
        logits: Rows × vocabulary.
        rows: The row of each token, int64.
        ids: Their ids; none occurs twice in a row.
        divisors: Divide positive logits, and multiply negative ones.
        subtrahends: Subtracted afterwards.
    """
    seen, divisors = logits[rows, ids], divisors.float()
    logits[rows, ids] = torch.where(seen > 0, seen / divisors, seen * divisors) - subtrahends.float()
