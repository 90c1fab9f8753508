"""A failed attempt frees its memory before the retry, and fallbacks are undone."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from shared.errors import OutOfMemory
from shared.models.oom import Fallback, offloaded, run_once, run_with_fallbacks
from tests.doubles.fault_injection import out_of_memory_error

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")


@contextmanager
def no_automatic_gc() -> Iterator[None]:
    """Disables automatic garbage collection while the body runs."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def observed_at_gc(observe: Callable[[], object]) -> Iterator[list[object]]:
    """Collects the result of `observe` at the start of each garbage collection."""
    observed: list[object] = []

    def callback(phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            observed.append(observe())

    gc.callbacks.append(callback)
    try:
        yield observed
    finally:
        gc.callbacks.remove(callback)


def test_reference_cycles_are_collected_before_the_retry() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def work() -> None:
        tensor: Any = torch.zeros(1)
        tensor.itself = tensor
        held.append(weakref.ref(tensor))
        raise out_of_memory_error()

    with no_automatic_gc():
        assert run_once(work) == (False, None)
        assert held[0]() is None


def test_the_traceback_is_dropped_before_the_cache_is_emptied() -> None:
    """The traceback keeps the tensors of the work alive."""
    held: list[weakref.ref[torch.Tensor]] = []

    def work() -> None:
        tensor = torch.zeros(1)
        held.append(weakref.ref(tensor))
        raise out_of_memory_error()

    with no_automatic_gc(), observed_at_gc(lambda: held[0]() is None) as free:
        run_once(work)
    assert free == [True]


def test_other_errors_are_reraised() -> None:
    def work() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        run_with_fallbacks(work, [Fallback("unused")], lambda _: None)


def test_each_fallback_is_tried_once_and_reported() -> None:
    warnings: list[str] = []

    def work() -> None:
        raise out_of_memory_error()

    with pytest.raises(OutOfMemory, match="even after every fallback"):
        run_with_fallbacks(work, [Fallback("this was done"), Fallback("that was done")], warnings.append)
    assert warnings == ["Out of memory; this was done.", "Out of memory; that was done."]


@dataclass
class Network:
    """A network that records its moves, and may fail to move to the CPU."""

    device: torch.device = GPU
    fails_to_offload: bool = False
    moves: list[torch.device] = field(default_factory=list)

    def to(self, device: torch.device) -> None:
        if self.fails_to_offload and device == CPU:
            raise out_of_memory_error()
        self.device = device
        self.moves.append(device)


def test_offloaded_networks_are_moved_back() -> None:
    networks = [Network(), Network()]
    with offloaded([*networks, None]):
        assert [network.device for network in networks] == [CPU, CPU]
    assert [network.device for network in networks] == [GPU, GPU]


def test_offloaded_networks_are_moved_back_after_a_failure() -> None:
    networks = [Network(), Network()]
    with pytest.raises(OutOfMemory), offloaded(networks):
        raise OutOfMemory("x")
    assert [network.device for network in networks] == [GPU, GPU]
    networks = [Network(), Network(fails_to_offload=True)]
    with pytest.raises(torch.OutOfMemoryError), offloaded(networks):
        pass
    assert [network.device for network in networks] == [GPU, GPU]
