"""Progress is throttled, ordered, and over when it is closed."""

from __future__ import annotations

import threading
import time

from pydantic import JsonValue

from shared.jobs.streaming.progress import Progress


class Slow:
    """Delivers updates, each in some milliseconds."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.steps: list[int] = []
        self.texts: list[JsonValue] = []
        self._seconds = seconds

    def __call__(self, update: dict[str, JsonValue]) -> None:
        time.sleep(self._seconds)
        self.steps.append(int(str(update["step"])))
        self.texts.append(update.get("text"))


def test_many_updates_become_few_and_the_last_always_arrives() -> None:
    receiver = Slow()
    with Progress(receiver, 0.2) as progress:
        for step in range(1, 101):
            progress.report(step, 100)
            time.sleep(0.005)
    assert receiver.steps == sorted(set(receiver.steps))
    assert receiver.steps[-1] == 100
    assert 2 <= len(receiver.steps) <= 6


def test_updates_never_overtake_each_other_on_a_slow_way() -> None:
    receiver = Slow(seconds=0.03)
    with Progress(receiver, 0.0) as progress:
        for step in range(30):
            progress.report(step, 30)
            time.sleep(0.005)
    assert receiver.steps == sorted(set(receiver.steps))
    assert receiver.steps[-1] == 29


def test_nothing_is_on_its_way_after_closing() -> None:
    receiver = Slow(seconds=0.05)
    with Progress(receiver, 10.0) as progress:
        progress.report(1, 2)
        time.sleep(0.02)
        progress.report(2, 2)
    arrived = list(receiver.steps)
    time.sleep(0.1)
    assert receiver.steps == arrived == [1, 2]
    assert "progress" not in {thread.name for thread in threading.enumerate()}


def test_reporting_never_waits_for_the_way() -> None:
    receiver = Slow(seconds=0.5)
    with Progress(receiver, 0.0) as progress:
        started = time.perf_counter()
        for step in range(1000):
            progress.report(step, 1000)
        assert time.perf_counter() - started < 0.4
        progress.drop()


def test_steps_that_are_made_again_do_not_let_progress_go_back() -> None:
    receiver = Slow()
    with Progress(receiver, 0.0) as progress:
        for step in (1, 2, 1, 2, 3):
            progress.report(step, 3)
            time.sleep(0.05)
    assert receiver.steps == sorted(receiver.steps)
    assert receiver.steps[-1] == 3


def test_a_stopped_job_says_nothing_more() -> None:
    receiver = Slow()
    with Progress(receiver, 10.0) as progress:
        progress.report(1, 3)
        time.sleep(0.05)
        progress.report(2, 3)
        progress.drop()
    assert receiver.steps == [1]


def test_the_text_so_far_rides_along() -> None:
    receiver = Slow()
    with Progress(receiver, 0.0) as progress:
        progress.report(1, 3, text="A heron")
    assert receiver.texts == ["A heron"]


def test_an_update_says_how_many_seconds_are_left_at_the_pace_so_far() -> None:
    updates: list[dict[str, JsonValue]] = []
    with Progress(updates.append, 0.0) as progress:
        for step in range(1, 5):
            progress.report(step, 8)
            time.sleep(0.05)
    assert "seconds_left" not in updates[0]
    left = float(str(updates[-1]["seconds_left"]))
    assert 4 * 0.05 <= left + 0.05 < 4


def test_when_all_steps_are_done_no_second_is_left() -> None:
    updates: list[dict[str, JsonValue]] = []
    with Progress(updates.append, 0.0) as progress:
        progress.report(1, 2)
        progress.report(2, 2)
    assert updates[-1]["seconds_left"] == 0


def test_a_text_has_no_seconds_left_because_nobody_knows_its_end() -> None:
    updates: list[dict[str, JsonValue]] = []
    with Progress(updates.append, 0.0) as progress:
        progress.report(1, 8, text="a")
        progress.report(2, 8, text="ab")
    assert "seconds_left" not in updates[-1]


def test_a_preview_rides_along_with_the_seconds_left() -> None:
    updates: list[dict[str, JsonValue]] = []
    with Progress(updates.append, 0.0) as progress:
        progress.report(1, 3, preview="data:image/webp;base64,AA==")
        progress.report(2, 3, preview="data:image/webp;base64,AB==")
    assert updates[-1]["preview"] == "data:image/webp;base64,AB=="
    assert "seconds_left" in updates[-1]
