"""Work that belongs to no job and runs piece by piece while the GPU is idle."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

Piece = Callable[[], None]


class IdleWork:
    """Runs pieces of work on an executor, one at a time, and only while no job is running or queued there.

    A job that arrives meanwhile waits for one piece at most.

    Args:
        submit: Submits a piece to the executor.
        pause: Seconds without a job before the next piece begins, so that jobs in quick succession are not delayed by pieces.
    """

    def __init__(self, submit: Callable[[Piece], Future[None]], pause: float) -> None:
        self._submit = submit
        self._pause = pause
        self._pieces: Iterator[Piece] | None = None
        self._lock = threading.RLock()  # a future that is done already calls back at once
        self._jobs = 0
        self._is_running = False
        self._timer: threading.Timer | None = None

    def start(self, pieces: Iterable[Piece], delay: float) -> None:
        """Runs pieces, which are drawn from the iterable one by one. One that raises an exception is the last.

        Args:
            pieces: The work.
            delay: Seconds until the first one, if no job comes earlier.
        """
        with self._lock:
            self._pieces = iter(pieces)
            self._schedule(delay)

    def stop(self) -> None:
        """Begins no further piece."""
        with self._lock:
            self._pieces = None
            self._cancel_timer()

    def wait_for(self, job: Future[Any]) -> None:
        """Begins no piece until the work of a job, which has been submitted to the same executor, has ended."""
        with self._lock:
            self._jobs += 1
            self._cancel_timer()
        job.add_done_callback(self._job_done)

    def _job_done(self, _job: Future[Any]) -> None:
        with self._lock:
            self._jobs -= 1
            self._schedule(self._pause)

    @property
    def _may_run(self) -> bool:
        return self._pieces is not None and not self._jobs and not self._is_running

    def _schedule(self, seconds: float) -> None:
        self._cancel_timer()
        if not self._may_run:
            return
        self._timer = threading.Timer(seconds, self._run_next)
        self._timer.daemon = True
        self._timer.start()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run_next(self) -> None:
        with self._lock:
            if not self._may_run:
                return
            assert self._pieces is not None
            piece = next(self._pieces, None)
            if piece is None:
                self._pieces = None
                return
            try:
                running = self._submit(piece)
            except RuntimeError:  # the executor has been shut down
                self._pieces = None
                return
            self._is_running = True
        running.add_done_callback(self._piece_done)

    def _piece_done(self, piece: Future[None]) -> None:
        with self._lock:
            self._is_running = False
            if piece.cancelled() or piece.exception() is not None:
                self._pieces = None
            self._schedule(0)
