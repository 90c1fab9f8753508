"""Structured logging and step timing."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import structlog

from shared.jobs.execution.threads import submit
from shared.telemetry import StepTimer, configure_logging, job_context, logger


@pytest.fixture(autouse=True)
def _reset_logging() -> object:
    yield
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_step_logs_one_line_with_job_id_and_milliseconds(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")
    timer = StepTimer()
    with job_context("job-1"), timer.step("fetch"):
        time.sleep(0.01)
    (line,) = lines(capsys)
    assert (line["event"], line["step"], line["outcome"], line["job_id"]) == ("step", "fetch", "done", "job-1")
    assert isinstance(line["ms"], float)
    assert line["ms"] >= 10


def test_failed_step_is_timed_and_logged_as_failed(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")
    timer = StepTimer()
    with pytest.raises(ValueError, match="on the way"), timer.step("generate"):
        raise ValueError("on the way")
    (line,) = lines(capsys)
    assert line["outcome"] == "failed"
    assert "generate" in timer.seconds


def test_job_id_propagates_to_threads(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")
    with ThreadPoolExecutor(2) as threads:
        for name in ("one", "other"):
            with job_context(name):
                submit(threads, lambda name=name: logger().info(f"from {name}")).result()  # type: ignore[misc]
    assert [(line["event"], line["job_id"]) for line in lines(capsys)] == [("from one", "one"), ("from other", "other")]


def test_step_times_of_all_threads_are_summed() -> None:
    timer = StepTimer(("encode", "upload"))
    barrier = threading.Barrier(3)

    def encode() -> None:
        with timer.step("encode"):
            barrier.wait(60)
            time.sleep(0.02)

    with ThreadPoolExecutor(3) as threads:
        for _ in range(3):
            threads.submit(encode)
    assert list(timer.seconds) == ["encode", "upload"]
    assert timer.seconds["encode"] >= 0.06
    assert timer.seconds["upload"] == 0.0


def test_lines_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("WARNING")
    logger().info("quiet")
    logger().warning("loud")
    assert [line["event"] for line in lines(capsys)] == ["loud"]
