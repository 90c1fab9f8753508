"""A single-producer, single-consumer queue between two threads, with end-of-stream and error propagation."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Empty, SimpleQueue
from threading import Event
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from shared.errors import Cancelled

T = TypeVar("T")


class EndOfStream(Exception):
    """A signal, not an error: the producer has closed the queue, and every item has been read."""


class _End:
    """The marker that follows the last item.

    Args:
        error: What the producer failed with; None after a complete stream.
    """

    def __init__(self, error: Exception | None) -> None:
        self.error: Final = error


class StreamQueue(Generic[T]):
    """A stream of items that is consumed while it is produced: once, in order, to its end or to the producer's error.

    The queue is unbounded, so that a producer never blocks on a consumer that has stopped reading; the producer polls `abandoned` instead.

    The producer calls `put` and then `close`, or does both by working inside `with queue:`, which also propagates its exception.
    The consumer iterates, or calls `get` or `batches`.
    """

    def __init__(self) -> None:
        self._items: SimpleQueue[T | _End] = SimpleQueue()
        self._end: _End | None = None  # once the consumer has reached it
        self._closed = Event()
        self._abandoned = Event()

    # Producer

    def put(self, item: T) -> None:
        """Appends an item."""
        self._items.put(item)

    def close(self, error: Exception | None = None) -> None:
        """Ends the stream. The consumer first gets the items that are queued, then `error` if there is one."""
        self._items.put(_End(error))
        self._closed.set()

    @property
    def abandoned(self) -> bool:
        """Whether the consumer has stopped before the end: further items would never be read."""
        return self._abandoned.is_set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the queue in any case: until then the consumer blocks. It sees `Cancelled` if the producer was closed or interrupted."""
        if error is not None and not isinstance(error, Exception):
            self.close(Cancelled("The producer stopped before the end."))
        else:
            self.close(error)

    # Consumer

    def get(self, timeout: float | None = None) -> T:
        """Returns the next item.

        Args:
            timeout: Seconds to wait; None waits until there is an item or the end.

        Raises:
            queue.Empty: Nothing arrived in time.
            EndOfStream: The stream is complete.
            Exception: What the producer failed with.
        """
        item = self._end or self._items.get(timeout=timeout)
        if not isinstance(item, _End):
            return item
        self._end = item
        raise item.error or EndOfStream

    def abandon(self) -> None:
        """Tells the producer that nothing more will be read."""
        self._abandoned.set()

    def __iter__(self) -> Iterator[T]:
        """Yields every item. Leaving the iteration early abandons the queue."""
        complete = False
        try:
            while True:
                yield self.get()
        except EndOfStream:
            complete = True
        finally:
            if not complete:
                self.abandon()

    def batches(self, interval: float, timeout: float | None = None) -> Iterator[list[T]]:
        """Yields the items that have arrived as lists, at most one list per `interval` seconds; the last one without delay.

        Args:
            interval: Minimum seconds between two lists with items.
            timeout: Seconds without an item after which an empty list is yielded; None: never.
        """
        while True:
            try:
                batch = [self.get(timeout)]
            except Empty:
                yield []
                continue
            except EndOfStream:
                return
            batch.extend(self._queued())
            yield batch
            self._closed.wait(interval)

    def _queued(self) -> Iterator[T]:
        """Yields the items that are in the queue now. An end is left for the next `get`."""
        while self._end is None:
            try:
                item = self._items.get_nowait()
            except Empty:
                return
            if isinstance(item, _End):
                self._end = item
            else:
                yield item
