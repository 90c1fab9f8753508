"""Values of fake tensors as the host would read them: the real ones where they are known, else plausible ones.

They are known for small tensors that the host has computed and sent, such as timesteps, and for what follows from these alone. A scheduler
that looks for its step on the device then finds the right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._pytree import tree_leaves, tree_map

_LIMIT = 4096  # values of the largest tensor that is followed
_ATTRIBUTE = "known_values"


def known_values(tensor: Tensor) -> Tensor | None:
    """Returns the values of a tensor if they are known; a real tensor is its own."""
    known: Tensor | None = getattr(tensor, _ATTRIBUTE, None) if isinstance(tensor, FakeTensor) else tensor
    return known


def host_values(tensor: Tensor) -> Tensor:
    """Returns real values for a fake tensor: ones where they are not known, or for bytes a pattern without 0, of more than one colour."""
    if (known := known_values(tensor)) is not None:
        return known
    if tensor.dtype == torch.uint8:
        return torch.arange(tensor.numel()).remainder_(251).add_(1).to(torch.uint8).reshape(tensor.shape)
    return torch.ones(tensor.shape, dtype=tensor.dtype)


def follow_values(func: Any, args: Any, kwargs: Any, operands: Sequence[Tensor], results: Sequence[FakeTensor]) -> None:
    """Runs an operation on known values too, and notes those of its results."""
    if func._schema.is_mutable or not operands or not results or any(each.numel() > _LIMIT for each in (*operands, *results)):
        return
    if any(known_values(each) is None for each in operands):
        return
    args, kwargs = tree_map(_on_host, (args, kwargs))
    with unset_fake_temporarily():
        values = tree_leaves(func(*args, **kwargs))
    for result, value in zip(results, values, strict=True):
        setattr(result, _ATTRIBUTE, value)


def _on_host(value: Any) -> Any:
    if isinstance(value, Tensor):
        return known_values(value)
    return torch.device("cpu") if isinstance(value, torch.device) else value
