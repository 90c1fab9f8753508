"""What is done when memory does not suffice: one remedy after the other, each taken off again, and the work tried anew after each."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import torch

from shared.errors import OutOfMemory, classify

T = TypeVar("T")

_NOTHING_HELPED = "Memory did not suffice for this job, whatever was tried: ask for a smaller size, fewer images or fewer frames."


@dataclass(frozen=True)
class Rung:
    """One remedy.

    Attributes:
        done: What the caller is told: `the picture was decoded in tiles`.
        remedy: Puts it on while the work is tried, and takes it off again.
    """

    done: str
    remedy: Callable[[], AbstractContextManager[object]] = nullcontext


FREED = Rung("memory that was kept in reserve was freed")
"""The first remedy: what the climb does anyway, because blocks that torch keeps may be of the wrong sizes."""


class Ladder:
    """Tries work, and on each lack of memory tries it again with one remedy more. They come off at the end of the `with` block.

    Args:
        rungs: The remedies, in their order.
        warn: Is told of each that was used.
    """

    def __init__(self, rungs: Iterable[Rung], warn: Callable[[str], None]) -> None:
        self._rungs = iter(rungs)
        self._warn = warn
        self._remedies = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._remedies.__exit__(kind, error, trace)

    def climb(self, work: Callable[[], T]) -> T:
        """Does a piece of work, with the remedies that earlier pieces needed and those that this one needs.

        Args:
            work: Must be fit to be tried again.

        Raises:
            OutOfMemory: It did not suffice with all of them.
        """
        while True:
            done, result = attempt(work)
            if done:
                return result  # type: ignore[return-value]  # what `work` returned
            rung = next(self._rungs, None)
            if rung is None:
                raise OutOfMemory(_NOTHING_HELPED)
            self._warn(f"Memory did not suffice; {rung.done}.")
            self._remedies.enter_context(rung.remedy())


def climb(work: Callable[[], T], rungs: Iterable[Rung], warn: Callable[[str], None]) -> T:
    """Does one piece of work, as `Ladder.climb` does it.

    Raises:
        OutOfMemory: Memory did not suffice with all remedies.
    """
    with Ladder(rungs, warn) as ladder:
        return ladder.climb(work)


def attempt(work: Callable[[], T]) -> tuple[bool, T | None]:
    """Tries work once.

    Returns:
        Whether memory sufficed, and then the work's result. Otherwise everything that the work had is free again.
    """
    try:
        return True, work()
    except (RuntimeError, MemoryError) as error:
        if not isinstance(classify(error, ""), OutOfMemory):
            raise
    # Outside of the except block: the error's traceback holds on to the tensors of the work.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False, None


@contextmanager
def in_tiles(vae: Any) -> Iterator[None]:
    """Lets a VAE work in tiles, of which less is in memory at once. Tiles meet in seams that one may see."""
    before = bool(vae.use_tiling)
    vae.enable_tiling()
    try:
        yield
    finally:
        if not before:
            vae.disable_tiling()


@contextmanager
def on_the_cpu(networks: Sequence[Any]) -> Iterator[None]:
    """Keeps networks that are not needed now in the computer's memory. They come back, also when that failed half-way."""
    homes = [(network, network.device) for network in networks if network is not None]
    try:
        _move([(network, torch.device("cpu")) for network, _ in homes])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        yield
    finally:
        _move(homes)


@contextmanager
def in_full_precision(network: Any) -> Iterator[None]:
    """Lets a network compute in float32. Its numbers are the same before and after: every number of half precision is one of float32."""
    before = network.dtype
    with torch.inference_mode(False):
        network.to(torch.float32)
    try:
        yield
    finally:
        with torch.inference_mode(False):
            network.to(before)


def _move(networks: Sequence[tuple[Any, torch.device]]) -> None:
    # Tensors that are made in inference mode could never be changed outside of it.
    with torch.inference_mode(False):
        for network, device in networks:
            network.to(device)
