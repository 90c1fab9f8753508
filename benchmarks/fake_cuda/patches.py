"""What torch asks of the CUDA driver, answered by the fake device while it is active."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from benchmarks.fake_cuda.attention import FusedAttention
from benchmarks.fake_cuda.card import Card


def patches(card: Card) -> Iterator[Any]:
    """Yields a context manager for each replaced function of torch."""
    memory = card.memory
    answers: dict[str, Callable[..., Any]] = {
        "mem_get_info": lambda device=None: (memory.total - memory.allocated, memory.total),
        "memory_reserved": lambda device=None: memory.allocated,
        "memory_allocated": lambda device=None: memory.allocated,
        "max_memory_allocated": lambda device=None: memory.peak,
        "reset_peak_memory_stats": lambda device=None: memory.reset_peak(),
        "get_device_properties": lambda device=None: SimpleNamespace(name="fake", total_memory=memory.total),
        "get_device_capability": lambda device=None: card.capability,
    }
    answers |= dict.fromkeys(("empty_cache", "synchronize", "set_per_process_memory_fraction"), lambda *_: None)
    for name, answer in answers.items():
        yield mock.patch.object(torch.cuda, name, answer)
    yield mock.patch.object(FakeTensor, "data_ptr", lambda tensor: tensor.untyped_storage()._cdata, create=True)
    yield mock.patch.object(FakeTensor, "tolist", lambda tensor: tensor.cpu().tolist(), create=True)
    yield mock.patch.object(torch, "tensor", _tensor(torch.tensor))
    yield mock.patch.object(nn.Module, "_apply", _apply(card))
    attention = nn.functional.scaled_dot_product_attention
    yield mock.patch.object(nn.functional, "scaled_dot_product_attention", FusedAttention(card, attention))


def _tensor(original: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `torch.tensor` that reads scalars of the device as it does on a GPU: inside, torch reads them past every mode."""

    def tensor(data: Any, **options: Any) -> Any:
        if isinstance(data, list | tuple):
            data = [each.item() if isinstance(each, FakeTensor) else each for each in data]
        return original(data, **options)

    return tensor


def _apply(card: Card) -> Callable[..., nn.Module]:
    """Returns `nn.Module._apply` with new parameters: torch would exchange the tensors' contents, which fake ones refuse.

    Tied parameters stay tied.
    """

    def apply(module: nn.Module, function: Callable[[Any], Any], recurse: bool = True) -> nn.Module:
        converted: dict[int, tuple[Any, Any]] = {}  # with the original, whose id would otherwise be reused
        with card.moving_networks(), torch.no_grad():
            for part in module.modules() if recurse else (module,):
                for tensors in (part._parameters, part._buffers):
                    for name, tensor in tensors.items():
                        if tensor is not None:
                            if id(tensor) not in converted:
                                converted[id(tensor)] = tensor, _converted(tensor, function)
                            tensors[name] = converted[id(tensor)][1]
        return module

    return apply


def _converted(tensor: Any, function: Callable[[Any], Any]) -> Any:
    new = function(tensor)
    return nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) and new is not tensor else new
