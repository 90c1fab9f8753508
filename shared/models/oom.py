"""Recovery from out-of-memory errors: the work is retried with one more fallback (empty cache, tiling, offloading) each time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import torch

from shared.errors import OutOfMemory, classify
from shared.models.persistent_tensors import ordinary_tensors

T = TypeVar("T")

_EXHAUSTED = "Out of memory, even after every fallback: request a smaller size, fewer images or fewer frames."


@dataclass(frozen=True)
class Fallback:
    """One way to use less memory.

    Attributes:
        description: What the caller is told, in the past tense: `the image was decoded in tiles`.
        apply: Enters it; it is undone when the recovery ends.
    """

    description: str
    apply: Callable[[], AbstractContextManager[object]] = nullcontext


EMPTY_CACHE = Fallback("the allocator's cache was emptied")
"""The first fallback: a plain retry. `run_once` has already emptied the cache, whose blocks may have been of the wrong sizes."""


class OOMRecovery:
    """Runs work, retrying after each out-of-memory error with one more fallback. All are undone at the end of the `with` block.

    Args:
        fallbacks: In the order in which they are tried.
        warn: Receives a warning for each fallback that was used.
    """

    def __init__(self, fallbacks: Iterable[Fallback], warn: Callable[[str], None]) -> None:
        self._fallbacks = iter(fallbacks)
        self._warn = warn
        self._applied = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._applied.__exit__(kind, error, trace)

    def run(self, work: Callable[[], T]) -> T:
        """Runs a piece of work, with the fallbacks that earlier pieces needed and any more that this one needs.

        Args:
            work: Must be safe to retry.

        Raises:
            OutOfMemory: Memory ran out with all fallbacks applied.
        """
        while True:
            succeeded, result = run_once(work)
            if succeeded:
                return result  # type: ignore[return-value]  # what `work` returned
            fallback = next(self._fallbacks, None)
            if fallback is None:
                raise OutOfMemory(_EXHAUSTED)
            self._warn(f"Out of memory; {fallback.description}.")
            self._applied.enter_context(fallback.apply())


def run_with_fallbacks(work: Callable[[], T], fallbacks: Iterable[Fallback], warn: Callable[[str], None]) -> T:
    """Runs one piece of work as `OOMRecovery.run` does.

    Raises:
        OutOfMemory: Memory ran out with all fallbacks applied.
    """
    with OOMRecovery(fallbacks, warn) as recovery:
        return recovery.run(work)


def run_once(work: Callable[[], T]) -> tuple[bool, T | None]:
    """Runs work once.

    Returns:
        Whether there was enough memory, and the result of the work. If there was not, all memory that the work held has been freed.
    """
    try:
        return True, work()
    except (RuntimeError, MemoryError) as error:
        if not isinstance(classify(error, ""), OutOfMemory):
            raise
    # Outside the except block: the traceback keeps the tensors of the work alive.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False, None


@contextmanager
def tiled(vae: Any) -> Iterator[None]:
    """Makes a VAE work in tiles, which need less memory and may leave visible seams."""
    before = bool(vae.use_tiling)
    vae.enable_tiling()
    try:
        yield
    finally:
        if not before:
            vae.disable_tiling()


@contextmanager
def offloaded(networks: Sequence[Any]) -> Iterator[None]:
    """Keeps idle networks in host memory. They are moved back, even if the offloading itself failed half-way."""
    devices = [(network, network.device) for network in networks if network is not None]
    try:
        _move([(network, torch.device("cpu")) for network, _ in devices])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        yield
    finally:
        _move(devices)


def _move(networks: Sequence[tuple[Any, torch.device]]) -> None:
    with ordinary_tensors():
        for network, device in networks:
            network.to(device)
