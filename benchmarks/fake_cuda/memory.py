"""The memory of a fake device: bytes of the tensors that are alive, their peak, and a budget."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

_BLOCK = 512  # torch's caching allocator rounds sizes up to it


class MemoryMeter:
    """Counts the bytes of storages from their first tensor until they are freed.

    Args:
        total: The bytes of the device. An allocation beyond them raises.

    Attributes:
        total: May be changed at any time.
        allocated: Bytes that are alive.
        peak: The most bytes since `reset_peak`.
        peaks: The most bytes in each phase since the last `reset`.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.allocated = 0
        self.peak = 0
        self.peaks: dict[str, int] = {}
        self._sizes: dict[int, int] = {}

    def reset(self) -> None:
        """Forgets all peaks."""
        self.reset_peak()
        self.peaks.clear()

    def reset_peak(self) -> None:
        """Starts a new peak, as `torch.cuda.reset_peak_memory_stats` does."""
        self.peak = self.allocated

    def hold(self, tensor: Tensor, phase: str) -> None:
        """Counts a tensor's storage, unless it is counted already.

        Raises:
            torch.OutOfMemoryError: It exceeds the budget.
        """
        storage = tensor.untyped_storage()
        key: int = storage._cdata
        if key in self._sizes:
            return
        size = -(-storage.nbytes() // _BLOCK) * _BLOCK
        if self.allocated + size > self.total:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {self.allocated / 1e9:.2f} GB allocated, {size / 1e9:.2f} GB requested")
        self._sizes[key] = size
        self.allocated += size
        self.peak = max(self.peak, self.allocated)
        self.peaks[phase] = max(self.peaks.get(phase, 0), self.allocated)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.allocated -= self._sizes.pop(key, 0)
