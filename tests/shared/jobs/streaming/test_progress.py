"""Progress is throttled and ordered, and nothing is sent after it was closed."""

from __future__ import annotations

import threading
import time

from pydantic import JsonValue

from shared.jobs.streaming.progress import Progress


class Receiver:
    """Records updates, and takes a while for each."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.steps: list[int] = []
        self.texts: list[JsonValue] = []
        self._seconds = seconds

    def __call__(self, update: dict[str, JsonValue]) -> None:
        time.sleep(self._seconds)
        self.steps.append(int(str(update["step"])))
        self.texts.append(update.get("text"))


def test_updates_are_throttled_and_the_last_always_arrives() -> None:
    receiver = Receiver()
    with Progress(receiver, 0.2) as progress:
        for step in range(1, 101):
            progress.report(step, 100)
            time.sleep(0.005)
    assert receiver.steps == sorted(set(receiver.steps))
    assert receiver.steps[-1] == 100
    assert 2 <= len(receiver.steps) <= 6


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
    with Progress(receiver, 10.0) as progress:
        progress.report(1, 2)
        time.sleep(0.02)
        progress.report(2, 2)
    arrived = list(receiver.steps)
    time.sleep(0.1)
    assert receiver.steps == arrived == [1, 2]
    assert "progress" not in {thread.name for thread in threading.enumerate()}


def test_report_never_blocks_on_delivery() -> None:
    receiver = Receiver(seconds=0.5)
    with Progress(receiver, 0.0) as progress:
        started = time.perf_counter()
        for step in range(1000):
            progress.report(step, 1000)
        assert time.perf_counter() - started < 0.4
        progress.drop()


def test_repeated_steps_do_not_move_progress_backwards() -> None:
    receiver = Receiver()
    with Progress(receiver, 0.0) as progress:
        for step in (1, 2, 1, 2, 3):
            progress.report(step, 3)
            time.sleep(0.05)
    assert receiver.steps == sorted(receiver.steps)
    assert receiver.steps[-1] == 3


def test_dropped_update_is_never_sent() -> None:
    receiver = Receiver()
    with Progress(receiver, 10.0) as progress:
        progress.report(1, 3)
        time.sleep(0.05)
        progress.report(2, 3)
        progress.drop()
    assert receiver.steps == [1]


def test_update_contains_the_text_so_far() -> None:
    receiver = Receiver()
    with Progress(receiver, 0.0) as progress:
        progress.report(1, 3, text="A heron")
    assert receiver.texts == ["A heron"]


def test_update_extrapolates_the_seconds_left() -> None:
    updates: list[dict[str, JsonValue]] = []
    with Progress(updates.append, 0.0) as progress:
        for step in range(1, 5):
            progress.report(step, 8)
            time.sleep(0.05)
    assert "seconds_left" not in updates[0]
    left = float(str(updates[-1]["seconds_left"]))
    assert 4 * 0.05 <= left + 0.05 < 4


def test_no_seconds_are_left_after_the_last_step() -> None:
    updates: list[dict[str, JsonValue]] = []
    with Progress(updates.append, 0.0) as progress:
        progress.report(1, 2)
        progress.report(2, 2)
    assert updates[-1]["seconds_left"] == 0


def test_text_updates_have_no_estimate() -> None:
    updates: list[dict[str, JsonValue]] = []
    with Progress(updates.append, 0.0) as progress:
        progress.report(1, 8, text="a")
        progress.report(2, 8, text="ab")
    assert "seconds_left" not in updates[-1]


def test_update_contains_the_latest_preview_and_the_estimate() -> None:
    updates: list[dict[str, JsonValue]] = []
    with Progress(updates.append, 0.0) as progress:
        progress.report(1, 3, preview="data:image/webp;base64,AA==")
        progress.report(2, 3, preview="data:image/webp;base64,AB==")
    assert updates[-1]["preview"] == "data:image/webp;base64,AB=="
    assert "seconds_left" in updates[-1]
