"""Progress updates: throttled, in order, and flushed before the result.

RunPod shows the last update as the job's output while it runs. An update that arrives after the result leaves the job stuck "in progress",
so the progress of a job must be closed before its result is returned.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pydantic import JsonValue

Send = Callable[[dict[str, JsonValue]], None]


class Progress:
    """Sends the latest of many updates: one at a time, and at most one per interval. A slow receiver never blocks the work that reports.

    Args:
        send: Delivers one update and returns once it has arrived.
        interval: Minimum seconds between the starts of two deliveries.
        clock: Seconds since some moment, from which the remaining time is extrapolated.
    """

    def __init__(self, send: Send, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._clock = clock
        self._interval = interval
        self._changed = threading.Condition()
        self._latest: dict[str, JsonValue] | None = None
        self._closing = False
        self._first: tuple[int, float] | None = None  # the first step that was reported, and when
        self._max_done = 0
        self._thread = threading.Thread(target=self._send_updates, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def report(self, done: int, total: int, *, text: str | None = None, preview: str | None = None) -> None:
        """Replaces the pending update, but keeps its preview if the new one has none. Returns at once.

        Args:
            done: Steps completed.
            total: Steps in all.
            text: The text generated so far.
            preview: A small image of the result so far, as a `data:` URL.
        """
        # Steps that are repeated after an out-of-memory fallback must not make the progress go backwards.
        done = self._max_done = max(done, self._max_done)
        update: dict[str, JsonValue] = {"step": done, "steps": total, "percent": round(100 * done / max(total, 1), 1)}
        if text is not None:
            update["text"] = text  # whose length is unknown, so that no remaining time can be estimated
        elif (seconds := self._seconds_left(done, total)) is not None:
            update["seconds_left"] = seconds
        with self._changed:
            shown = preview or (self._latest or {}).get("preview")
            self._latest = update | ({"preview": shown} if shown else {})
            self._changed.notify()

    def drop(self) -> None:
        """Discards the pending update: a cancelled job reports nothing more."""
        with self._changed:
            self._latest = None

    def close(self) -> None:
        """Flushes the pending update and returns once no delivery is in progress."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _seconds_left(self, done: int, total: int) -> float | None:
        """Seconds until the last step, extrapolated from the steps so far. None at the first step, which includes one-time costs."""
        if self._first is None or done <= self._first[0]:
            self._first = (done, self._clock())
            return None
        first, started = self._first
        return round((self._clock() - started) / (done - first) * (total - done), 1)

    def _send_updates(self) -> None:
        while (update := self._next()) is not None:
            self._send(update)
            with self._changed:
                self._changed.wait_for(lambda: self._closing, timeout=self._interval)

    def _next(self) -> dict[str, JsonValue] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._latest is not None or self._closing)
            update, self._latest = self._latest, None
            return update
