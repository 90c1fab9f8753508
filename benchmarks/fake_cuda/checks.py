"""Checks that CUDA kernels make and the kernels of fake tensors do not: operands of one type, on one device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from benchmarks.fake_cuda.counts import calling_lines

_ONE_TYPE = frozenset({"mm", "addmm", "bmm", "baddbmm", "convolution", "_convolution"})
_COPIES = frozenset({"_to_copy", "copy_", "lift_fresh", "index", "index_put", "index_put_", "_index_put_impl_"})


def check_operands(name: str, tensors: Sequence[Tensor]) -> None:
    """Checks the operands of one operation on the device. Scalars of the CPU are allowed, as CUDA allows them.

    Args:
        name: The operation.
        tensors: Its operands.

    Raises:
        RuntimeError: As CUDA's kernel would raise, with the line that called it.
    """
    if name in _ONE_TYPE:
        types = {tensor.dtype for tensor in tensors if tensor.dim() > 0}
        if len(types) > 1:
            raise RuntimeError(f"{name}: expected operands of one type, but got {_names(types)} at {_place()}")
    if name not in _COPIES and any(tensor.dim() > 0 and not is_on_device(tensor) for tensor in tensors):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found cuda and cpu at {_place()}")


def check_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
    """Checks the operands of attention.

    Raises:
        RuntimeError: They are of several types or on several devices.
    """
    types = {query.dtype, key.dtype, value.dtype}
    if len(types) > 1:
        raise RuntimeError(f"attention: expected query, key and value of one type, but got {_names(types)} at {_place()}")
    if mask is not None and mask.is_floating_point() and mask.dtype != query.dtype:
        raise RuntimeError(f"attention: expected a mask of type {query.dtype}, but got {mask.dtype} at {_place()}")
    if not all(is_on_device(tensor) for tensor in (query, key, value, mask) if tensor is not None):
        raise RuntimeError(f"attention: expected all tensors to be on the same device, but found cuda and cpu at {_place()}")


def is_on_device(tensor: Tensor) -> bool:
    """Returns whether a tensor is on the fake device. Real tensors are on the CPU."""
    return isinstance(tensor, FakeTensor) and tensor.device.type == "cuda"


def _names(types: set[Any]) -> str:
    return " and ".join(sorted(str(each).removeprefix("torch.") for each in types))


def _place() -> str:
    return " > ".join(place for place in calling_lines() if place)
