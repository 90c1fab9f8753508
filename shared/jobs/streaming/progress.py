"""Progress updates: throttled, in order, and flushed before the result.

RunPod shows the last update as the job's output while it runs. An update that arrives after the result leaves the job stuck "in progress",
so whoever ends a job closes its progress first.
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
    """Sends the latest of many updates, one at a time, at most one per interval.

    Args:
        send: Delivers one update and returns when it has arrived.
        interval: Least seconds between the starts of two deliveries.
    """

    def __init__(self, send: Send, interval: float) -> None:
        self._send = send
        self._interval = interval
        self._changed = threading.Condition()
        self._latest: dict[str, JsonValue] | None = None
        self._closing = False
        self._begun: tuple[int, float] | None = None  # the first step that was reported, and when
        self._most = 0
        self._thread = threading.Thread(target=self._deliver, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def report(self, done: int, total: int, *, text: str | None = None, preview: str | None = None) -> None:
        """Replaces the update that waits to be sent, but for a preview that it has and this one lacks. Returns at once."""
        # Steps that are made again, because memory did not suffice the first time, do not let a caller see progress go back.
        done = self._most = max(done, self._most)
        update: dict[str, JsonValue] = {"step": done, "steps": total, "percent": round(100 * done / max(total, 1), 1)}
        if text is not None:
            update["text"] = text  # which ends when it ends: nobody knows how many seconds before its longest
        elif (left := self._left(done, total)) is not None:
            update["seconds_left"] = left
        with self._changed:
            shown = preview or (self._latest or {}).get("preview")
            self._latest = update | ({"preview": shown} if shown else {})
            self._changed.notify()

    def drop(self) -> None:
        """Forgets the update that waits: a stopped job says nothing more."""
        with self._changed:
            self._latest = None

    def close(self) -> None:
        """Sends what still waits and returns when nothing is on its way any more."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _left(self, done: int, total: int) -> float | None:
        """Seconds until the last step, at the pace of the steps so far. None at the first: it also pays for what is done once."""
        if self._begun is None or done <= self._begun[0]:
            self._begun = (done, time.monotonic())
            return None
        first, started = self._begun
        return round((time.monotonic() - started) / (done - first) * (total - done), 1)

    def _deliver(self) -> None:
        while (update := self._next()) is not None:
            self._send(update)
            with self._changed:
                self._changed.wait_for(lambda: self._closing, timeout=self._interval)

    def _next(self) -> dict[str, JsonValue] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._latest is not None or self._closing)
            update, self._latest = self._latest, None
            return update
