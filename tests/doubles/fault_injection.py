"""Networks that meet real faults while they compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def out_of_memory_error() -> torch.OutOfMemoryError:
    """As torch raises it."""
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.68 GiB.")


class Calls:
    """How often a network was called, and with how many samples each time."""

    def __init__(self) -> None:
        self.samples: list[int] = []


@contextmanager
def raising_oom(network: Any, *, times: int, above: int = 0, after: int = 0) -> Iterator[Calls]:
    """Has a network run out of memory.

    Args:
        network: What is called.
        times: So often, and then no more.
        above: Only with more samples than these.
        after: Not in so many first calls.
    """
    calls = Calls()
    left = times

    def before(_network: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal left
        sample = arguments[0] if arguments else next(iter(named.values()))
        calls.samples.append(len(sample))
        if left > 0 and len(sample) > above and len(calls.samples) > after:
            left -= 1
            raise out_of_memory_error()

    hook = network.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


@contextmanager
def returning_constant(network: Any, value: float) -> Iterator[None]:
    """Has a network answer with one number everywhere."""

    def after(_network: Any, _arguments: Any, result: Any) -> Any:
        return torch.full_like(result, value) if isinstance(result, torch.Tensor) else (torch.full_like(result[0], value), *result[1:])

    hook = network.register_forward_hook(after)
    try:
        yield
    finally:
        hook.remove()
