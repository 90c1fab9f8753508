"""Progress is throttled and ordered, and nothing is sent after it was closed."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

from pydantic import JsonValue

from shared.jobs.streaming.progress import Progress

TIMEOUT = 60.0


class Receiver:
    """Records updates as a slow network delivers them, and waits for them.

    Attributes:
        starts: When each delivery started, in seconds of `time.monotonic`.
        updates: What has been delivered.
        open: While it is cleared, every delivery waits.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.starts: list[float] = []
        self.updates: list[dict[str, JsonValue]] = []
        self.open = threading.Event()
        self.open.set()
        self._seconds = seconds
        self._changed = threading.Condition()

    def __call__(self, update: dict[str, JsonValue]) -> None:
        with self._changed:
            self.starts.append(time.monotonic())
            self._changed.notify_all()
        time.sleep(self._seconds)
        self.open.wait(TIMEOUT)
        with self._changed:
            self.updates.append(update)
            self._changed.notify_all()

    @property
    def steps(self) -> list[int]:
        return [int(str(update["step"])) for update in self.updates]

    def wait_for_start(self, count: int = 1) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.starts) >= count, TIMEOUT)

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.updates) >= count, TIMEOUT)


def test_updates_are_throttled() -> None:
    receiver = Receiver()
    with Progress(receiver, 0.1) as progress:
        step = 0
        while len(receiver.updates) < 4:
            step += 1
            progress.report(step, 10_000)
            time.sleep(0.001)
    *starts, _flushed = receiver.starts
    assert all(later - earlier >= 0.1 for earlier, later in pairwise(starts))


def test_the_last_update_always_arrives() -> None:
    receiver = Receiver()
    with Progress(receiver, 3600.0) as progress:
        progress.report(1, 100)
        receiver.wait_for(1)
        for step in range(2, 101):
            progress.report(step, 100)
    assert receiver.steps == [1, 100]


def test_updates_stay_in_order_when_delivery_is_slow() -> None:
    receiver = Receiver(seconds=0.03)
    with Progress(receiver, 0.0) as progress:
        for step in range(30):
            progress.report(step, 30)
            time.sleep(0.005)
    assert receiver.steps == sorted(set(receiver.steps))
    assert receiver.steps[-1] == 29


def test_close_waits_for_the_delivery_in_progress() -> None:
    receiver = Receiver(seconds=0.05)
    with Progress(receiver, 3600.0) as progress:
        progress.report(1, 2)
        receiver.wait_for_start()
        progress.report(2, 2)
    assert receiver.steps == [1, 2]
    assert "progress" not in {thread.name for thread in threading.enumerate()}, "nothing is sent any more"


def test_report_never_blocks_on_delivery() -> None:
    receiver = Receiver()
    receiver.open.clear()
    with Progress(receiver, 0.0) as progress:
        progress.report(0, 1000)
        receiver.wait_for_start()
        for step in range(1, 1000):
            progress.report(step, 1000)
        assert receiver.updates == [], "the first delivery is still in progress"
        progress.drop()
        receiver.open.set()
    assert receiver.steps == [0]


def test_repeated_steps_do_not_move_progress_backwards() -> None:
    receiver = Receiver()
    with Progress(receiver, 0.0) as progress:
        for count, step in enumerate((1, 2, 1, 2, 3), start=1):
            progress.report(step, 3)
            receiver.wait_for(count)
    assert receiver.steps == [1, 2, 2, 2, 3]


def test_dropped_update_is_never_sent() -> None:
    receiver = Receiver()
    with Progress(receiver, 3600.0) as progress:
        progress.report(1, 3)
        receiver.wait_for(1)
        progress.report(2, 3)
        progress.drop()
    assert receiver.steps == [1]


def test_update_contains_the_text_so_far() -> None:
    receiver = Receiver()
    with Progress(receiver, 0.0) as progress:
        progress.report(1, 3, text="A heron")
    assert [update["text"] for update in receiver.updates] == ["A heron"]


def test_update_extrapolates_the_seconds_left() -> None:
    receiver, now = Receiver(), 100.0
    with Progress(receiver, 0.0, clock=lambda: now) as progress:
        for step in range(1, 5):
            progress.report(step, 8)
            receiver.wait_for(step)
            now += 10 * step  # 10, 20 and 30 seconds for three steps
    assert [update.get("seconds_left") for update in receiver.updates] == [None, 60.0, 75.0, 80.0]


def test_no_seconds_are_left_after_the_last_step() -> None:
    receiver = Receiver()
    with Progress(receiver, 0.0) as progress:
        progress.report(1, 2)
        progress.report(2, 2)
    assert receiver.updates[-1]["seconds_left"] == 0


def test_text_updates_have_no_estimate() -> None:
    receiver = Receiver()
    with Progress(receiver, 0.0) as progress:
        progress.report(1, 8, text="a")
        progress.report(2, 8, text="ab")
    assert "seconds_left" not in receiver.updates[-1]


def test_update_contains_the_latest_preview_and_the_estimate() -> None:
    receiver = Receiver()
    with Progress(receiver, 0.0) as progress:
        progress.report(1, 3, preview="data:image/webp;base64,AA==")
        progress.report(2, 3, preview="data:image/webp;base64,AB==")
    assert receiver.updates[-1]["preview"] == "data:image/webp;base64,AB=="
    assert "seconds_left" in receiver.updates[-1]
