"""A painting worker in the real SDK's loop, with a gateway and a callback receiver on loopback."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from playground.callback_receiver import CallbackReceiver
from tests.doubles.fake_runpod import FakeRunPodAPI
from tests.doubles.worker import WorkerProcess

SECRET = "canary-callback-secret-0123456789"


@dataclass(frozen=True)
class Loop:
    """Everything around one worker."""

    runpod_api: FakeRunPodAPI
    receiver: CallbackReceiver
    worker: WorkerProcess

    def steps(self, job_id: str) -> list[float]:
        """When the GPU's thread did a step for this job."""
        log = self.worker.folder / "steps.log"
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return [float(seconds) for name, seconds in lines if name == job_id]

    def wait_for_step(self, job_id: str, seconds: float = 30.0) -> None:
        """Returns when the GPU's thread has begun with this job."""
        ends = time.monotonic() + seconds
        while not self.steps(job_id):
            assert time.monotonic() < ends, f"{job_id} has not begun within {seconds} s"
            time.sleep(0.02)

    def callbacks(self, job_id: str) -> list[dict[str, Any]]:
        """The callbacks about a job, their signatures verified."""
        return [payload for payload in self.receiver.payloads if payload["job_id"] == job_id]


@contextmanager
def started(folder: Path, module: str = "tests.doubles.stub_worker", **environment: str) -> Iterator[Loop]:
    """A worker that has asked for its first job."""
    with FakeRunPodAPI() as runpod_api, CallbackReceiver(SECRET) as receiver:
        variables = {"JOB_CALLBACK_URL": receiver.url, "JOB_CALLBACK_SECRET": SECRET, "PROGRESS_INTERVAL": "0.5"} | environment
        with WorkerProcess(module, runpod_api, folder, variables) as worker:
            runpod_api.wait_for(lambda: bool(runpod_api.takes), seconds=110.0, what="the worker's start")
            yield Loop(runpod_api, receiver, worker)


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    """One worker for all tests of a module: a job leaves nothing behind that the next could notice."""
    with started(tmp_path_factory.mktemp("worker"), JOB_CONCURRENCY="3") as running:  # above 2 the SDK does not rest a second per job
        yield running


@pytest.fixture
def own_loop(tmp_path: Path) -> Iterator[Loop]:
    """A worker for one test that ends it."""
    with started(tmp_path) as running:
        yield running
