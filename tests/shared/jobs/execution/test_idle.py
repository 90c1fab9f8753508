"""Idle work runs on the GPU thread between jobs, piece by piece; a job waits for one piece at most."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from shared.jobs.execution.cancel import CancelToken
from shared.jobs.execution.gpu import GpuThread
from tests.shared.jobs.execution.test_gpu import device_error


@pytest.fixture
def gpu() -> Iterator[GpuThread]:
    with GpuThread(idle_after=0.01) as thread:
        yield thread


class Log:
    """Records the order of work, and waits for it."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self._changed = threading.Condition()

    def add(self, name: str) -> Callable[[], None]:
        def work() -> None:
            with self._changed:
                self.order.append(name)
                self._changed.notify_all()

        return work

    def wait_for(self, *order: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.order == list(order), timeout=60), self.order


def test_pieces_run_in_order_while_there_is_no_job(gpu: GpuThread) -> None:
    log = Log()
    gpu.run_when_idle(log.add(name) for name in "abc")
    log.wait_for("a", "b", "c")


def test_a_job_waits_for_the_running_piece_only(gpu: GpuThread) -> None:
    log, started, ends = Log(), threading.Event(), threading.Event()

    def piece() -> None:
        started.set()
        ends.wait(60)
        log.add("piece")()

    gpu.run_when_idle([piece, log.add("next piece")])
    assert started.wait(60)
    jobs = [gpu.submit(log.add(name)) for name in ("job", "next job")]
    ends.set()
    for job in jobs:
        job.result(60)
    log.wait_for("piece", "job", "next job", "next piece")


def test_a_piece_that_fails_is_the_last_and_jobs_go_on(gpu: GpuThread) -> None:
    log = Log()

    def fail() -> None:
        log.add("failure")()
        raise ValueError

    gpu.run_when_idle([fail, log.add("next piece")])
    log.wait_for("failure")
    asyncio.run(gpu.run(log.add("job"), CancelToken(60)))
    assert not gpu.is_lost
    log.wait_for("failure", "job")


def test_a_piece_can_lose_the_gpu(gpu: GpuThread) -> None:
    log = Log()

    def lose() -> None:
        log.add("loss")()
        raise device_error()

    gpu.run_when_idle([lose, log.add("next piece")])
    log.wait_for("loss")
    with pytest.raises(Exception, match="The GPU failed before this job began"):
        asyncio.run(gpu.run(log.add("job"), CancelToken(60)))
    assert gpu.is_lost


def test_a_job_that_arrives_while_another_runs_comes_before_the_next_piece(gpu: GpuThread) -> None:
    log, ends = Log(), threading.Event()
    first = gpu.submit(lambda: ends.wait(60))
    gpu.run_when_idle([log.add("piece")])
    time.sleep(0.1)  # by now a piece that did not wait would be queued
    second = gpu.submit(log.add("job"))
    ends.set()
    first.result(60)
    second.result(60)
    log.wait_for("job", "piece")
