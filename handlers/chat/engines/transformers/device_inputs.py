"""The numbers of one step on their way to the device: a single asynchronous copy, for which the host does not wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_Values = Sequence[Any] | NDArray[Any]


class DeviceInputs:
    """Arrays of the host that a step needs on the device. They are copied together when the first of them is used.

    Every blocking copy, and every index that is a list, would stop the host until the device has caught up. From pinned memory a copy is
    queued like a kernel; the allocator of pinned memory does not reuse a block before its copies are done.

    Args:
        device: Where they are needed. On a CPU nothing is copied.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._arrays: list[NDArray[Any]] = []
        self._tensors: list[Tensor] = []

    def integers(self, values: _Values) -> Callable[[], Tensor]:
        """Adds an int64 array. Returns a function that returns it on the device; none can be added once it has been called."""
        return self._add(np.asarray(values, np.int64))

    def floats(self, values: _Values) -> Callable[[], Tensor]:
        """Adds a float64 array, in the same way."""
        return self._add(np.asarray(values, np.float64))

    def _add(self, array: NDArray[Any]) -> Callable[[], Tensor]:
        if self._tensors:
            raise RuntimeError("the inputs are on the device already")
        self._arrays.append(array)
        index = len(self._arrays) - 1
        return lambda: self._copied()[index]

    def _copied(self) -> list[Tensor]:
        if not self._tensors:
            joined = torch.from_numpy(np.concatenate([array.ravel().view(np.int64) for array in self._arrays]))
            if torch.cuda.is_available():
                joined = joined.pin_memory()
            parts = torch.split(joined.to(self._device, non_blocking=True), [array.size for array in self._arrays])
            self._tensors = [
                (part if array.dtype == np.int64 else part.view(torch.float64)).view(array.shape)
                for part, array in zip(parts, self._arrays, strict=True)
            ]
        return self._tensors
