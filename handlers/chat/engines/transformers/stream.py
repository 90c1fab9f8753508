"""An answer on its way from the engine's thread to whoever reads it."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Empty, SimpleQueue
from threading import Event
from types import TracebackType
from typing import Self

from handlers.chat.engine import Finished, Piece
from shared.errors import JobError

# Seconds between two pieces. A reader sees no difference below this, and a thread that wakes for every token takes time from the engine.
_INTERVAL = 0.03


class RowStream:
    """One answer while it is written. The engine's thread puts, another reads."""

    def __init__(self) -> None:
        self._pieces: SimpleQueue[Piece | Finished | JobError] = SimpleQueue()
        self._over = Event()
        self._left = Event()
        self._finished: Finished | None = None

    # What the engine does

    def put(self, piece: Piece) -> None:
        """Hands over the next piece."""
        self._pieces.put(piece)

    def end(self, end: Finished | JobError) -> None:
        """Ends the stream, with the answer or with the reason why there is none."""
        self._pieces.put(end)
        self._over.set()

    @property
    def left(self) -> bool:
        """Whether the reader has gone: what is still to be written would be written for nobody."""
        return self._left.is_set()

    # What the reader does

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._left.set()

    @property
    def finished(self) -> Finished:
        """The whole answer."""
        if self._finished is None:
            raise RuntimeError("the answer is not finished")
        return self._finished

    def __iter__(self) -> Iterator[Piece]:
        """Yields what is there as soon as there is something, to the end."""
        while self._finished is None:
            arrived = [self._pieces.get(), *self._waiting()]
            pieces = [part for part in arrived if isinstance(part, Piece)]
            if pieces:
                yield Piece("".join(piece.text for piece in pieces), pieces[-1].tokens)
            if isinstance(end := arrived[-1], JobError):
                raise end
            if isinstance(end, Finished):
                self._finished = end
            else:
                self._over.wait(_INTERVAL)

    def _waiting(self) -> Iterator[Piece | Finished | JobError]:
        while True:
            try:
                yield self._pieces.get_nowait()
            except Empty:
                return
