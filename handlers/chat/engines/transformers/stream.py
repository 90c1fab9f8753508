"""The stream of deltas from the engine thread to the consumer of one sequence."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from handlers.chat.engine import DELTA_INTERVAL, Completion, Delta
from shared.errors import JobError
from shared.jobs.streaming.queue import StreamQueue


class SequenceStream:
    """The completion of one sequence while it is generated, as an engine's `CompletionStream`."""

    def __init__(self) -> None:
        self._deltas: StreamQueue[Delta] = StreamQueue()
        self._completion: Completion | None = None

    # Engine thread

    def put(self, delta: Delta) -> None:
        """Appends a delta."""
        self._deltas.put(delta)

    def complete(self, completion: Completion) -> None:
        """Ends the stream with the finished completion."""
        self._completion = completion
        self._deltas.close()

    def fail(self, error: JobError) -> None:
        """Ends the stream with an error."""
        self._deltas.close(error)

    @property
    def abandoned(self) -> bool:
        """Whether the consumer has exited the context: further tokens would be wasted work."""
        return self._deltas.abandoned

    # Consumer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._deltas.abandon()

    @property
    def completion(self) -> Completion:
        """The finished completion."""
        if self._completion is None:
            raise RuntimeError("the completion is not finished")
        return self._completion

    def __iter__(self) -> Iterator[Delta]:
        """Yields deltas as they become available, merging those that arrive within the same interval.

        Raises:
            JobError: The sequence was cancelled or has failed.
        """
        for deltas in self._deltas.batches(DELTA_INTERVAL):
            yield Delta.merged(deltas)
