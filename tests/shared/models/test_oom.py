"""What a try that ran out of memory had is free before the next, and what a remedy moved comes back."""

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
from shared.models.oom import Rung, attempt, climb, on_the_cpu
from tests.doubles.sabotage import no_memory

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")


@contextmanager
def nothing_collected() -> Iterator[None]:
    """While the body runs, Python collects only where it is asked to."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def at_each_collection(look: Callable[[], object]) -> Iterator[list[object]]:
    """What `look` saw as each collection began."""
    seen: list[object] = []

    def called(phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            seen.append(look())

    gc.callbacks.append(called)
    try:
        yield seen
    finally:
        gc.callbacks.remove(called)


def test_what_holds_on_to_itself_is_free_before_the_next_try() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def work() -> None:
        tensor: Any = torch.zeros(1)
        tensor.itself = tensor
        held.append(weakref.ref(tensor))
        raise no_memory()

    with nothing_collected():
        assert attempt(work) == (False, None)
        assert held[0]() is None


def test_the_error_is_forgotten_before_memory_is_given_back() -> None:
    """Its traceback holds on to everything that the work had."""
    held: list[weakref.ref[torch.Tensor]] = []

    def work() -> None:
        tensor = torch.zeros(1)
        held.append(weakref.ref(tensor))
        raise no_memory()

    with nothing_collected(), at_each_collection(lambda: held[0]() is None) as free:
        attempt(work)
    assert free == [True]


def test_another_error_is_nobody_elses() -> None:
    def work() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        climb(work, [Rung("nothing")], lambda _: None)


def test_each_remedy_is_tried_once_and_named() -> None:
    said: list[str] = []

    def work() -> None:
        raise no_memory()

    with pytest.raises(OutOfMemory, match="whatever was tried"):
        climb(work, [Rung("this was done"), Rung("that was done")], said.append)
    assert said == ["Memory did not suffice; this was done.", "Memory did not suffice; that was done."]


@dataclass
class Network:
    """Stands where it is put, unless it breaks on its way to the CPU."""

    device: torch.device = GPU
    breaks: bool = False
    been: list[torch.device] = field(default_factory=list)

    def to(self, device: torch.device) -> None:
        if self.breaks and device == CPU:
            raise no_memory()
        self.device = device
        self.been.append(device)


def test_networks_that_were_moved_aside_come_back() -> None:
    networks = [Network(), Network()]
    with on_the_cpu([*networks, None]):
        assert [network.device for network in networks] == [CPU, CPU]
    assert [network.device for network in networks] == [GPU, GPU]


def test_they_come_back_where_the_work_or_the_moving_itself_failed() -> None:
    networks = [Network(), Network()]
    with pytest.raises(OutOfMemory), on_the_cpu(networks):
        raise OutOfMemory("x")
    assert [network.device for network in networks] == [GPU, GPU]
    networks = [Network(), Network(breaks=True)]
    with pytest.raises(torch.OutOfMemoryError), on_the_cpu(networks):
        pass
    assert [network.device for network in networks] == [GPU, GPU]
