"""Injects faults into networks through forward hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def out_of_memory_error() -> torch.OutOfMemoryError:
    """Returns the error that torch raises."""
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.68 GiB.")


class CallLog:
    """The batch size of each call of a network."""

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []


@contextmanager
def raising_oom(network: Any, *, times: int, above: int = 0, after: int = 0) -> Iterator[CallLog]:
    """Makes a network raise an out-of-memory error.

    Args:
        network: The network.
        times: The number of failures, after which calls succeed.
        above: Only fail for batches larger than this.
        after: The number of initial calls that do not fail.
    """
    calls = CallLog()
    remaining = times

    def before(_network: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal remaining
        sample = arguments[0] if arguments else next(iter(named.values()))
        calls.batch_sizes.append(len(sample))
        if remaining > 0 and len(sample) > above and len(calls.batch_sizes) > after:
            remaining -= 1
            raise out_of_memory_error()

    hook = network.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


@contextmanager
def returning_constant(network: Any, value: float) -> Iterator[None]:
    """Replaces a network's output by a constant."""

    def after(_network: Any, _arguments: Any, result: Any) -> Any:
        return torch.full_like(result, value) if isinstance(result, torch.Tensor) else (torch.full_like(result[0], value), *result[1:])

    hook = network.register_forward_hook(after)
    try:
        yield
    finally:
        hook.remove()
