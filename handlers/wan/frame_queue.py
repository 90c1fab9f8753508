"""What one thread makes piece by piece, another reads as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue
from threading import Event
from types import TracebackType
from typing import Generic, Self, TypeVar

from shared.errors import Cancelled

T = TypeVar("T")


class Relay(Generic[T]):
    """A sequence that is read while it is made: once, in order, to its end or to the error that ended it.

    It holds what was made and not yet read, so that whoever makes it never waits for a reader who may not come. Whoever makes it does so
    inside `with`; whoever reads it iterates.
    """

    def __init__(self) -> None:
        self._pieces: SimpleQueue[tuple[T | None, Exception | None]] = SimpleQueue()
        self._left = Event()

    @property
    def left(self) -> bool:
        """Whether the reader has gone before the end: what is still to be made would be made for nobody."""
        return self._left.is_set()

    def put(self, piece: T) -> None:
        """Hands over the next piece."""
        self._pieces.put((piece, None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends the sequence, in any case: until then the reader waits. What broke it off reaches the reader, too."""
        given_up = Cancelled("What made it has given up.") if error is not None else None
        self._pieces.put((None, error if isinstance(error, Exception) else given_up or StopIteration()))

    def __iter__(self) -> Iterator[T]:
        whole = False
        try:
            while True:
                piece, end = self._pieces.get()
                if isinstance(end, StopIteration):
                    whole = True
                    return
                if end is not None:
                    raise end
                yield piece  # type: ignore[misc]  # a piece comes without an end
        finally:
            if not whole:
                self._left.set()
