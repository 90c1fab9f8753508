"""The fake device as the functions that stand in for torch's see it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from benchmarks.fake_cuda.counts import Counts
from benchmarks.fake_cuda.memory import MemoryMeter


class Card(Protocol):
    """What a `FakeCuda` offers to them."""

    capability: tuple[int, int]
    counts: Counts
    memory: MemoryMeter
    phase: str

    def moving_networks(self) -> AbstractContextManager[None]:
        """Leaves tensors that are copied to the host while the body runs without values."""
