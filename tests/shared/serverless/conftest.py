"""A worker process under RunPod's real SDK, with a fake RunPod API and a callback receiver on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from playground.callback_receiver import CallbackReceiver
from tests.doubles.fake_runpod import FakeRunPodAPI
from tests.doubles.waiting import wait_until
from tests.doubles.worker import WorkerProcess

SECRET = "canary-callback-secret-0123456789"


@dataclass(frozen=True)
class WorkerHarness:
    """A worker and the servers that it talks to."""

    runpod_api: FakeRunPodAPI
    receiver: CallbackReceiver
    worker: WorkerProcess

    def steps(self, job_id: str) -> list[float]:
        """Returns the times at which the GPU thread ran a step of this job."""
        log = self.worker.folder / "steps.log"
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return [float(seconds) for name, seconds in lines if name == job_id]

    def wait_for_step(self, job_id: str) -> None:
        """Waits until the GPU thread has started this job."""
        wait_until(lambda: bool(self.steps(job_id)), f"{job_id} has not started")

    def wait_for_validation(self, job_id: str) -> None:
        """Waits until a job has been validated: the next thing that it needs is the GPU."""
        wait_until(lambda: f'"job_id": "{job_id}"' in self.worker.log, f"{job_id} has not been validated")

    def wait_for_callback(self, job_id: str) -> dict[str, Any]:
        """Waits for the only callback of a job, and returns its payload."""
        wait_until(lambda: bool(self.callbacks(job_id)), f"{job_id} has no callback")
        (payload,) = self.callbacks(job_id)
        return payload

    def callbacks(self, job_id: str) -> list[dict[str, Any]]:
        """Returns the payloads of a job's callbacks, their signatures verified."""
        return [payload for payload in self.receiver.payloads if payload["job_id"] == job_id]


@contextmanager
def start_worker(folder: Path, module: str = "tests.doubles.stub_worker", **environment: str) -> Iterator[WorkerHarness]:
    """Starts a worker and waits until it asks for its first job."""
    with FakeRunPodAPI() as runpod_api, CallbackReceiver(SECRET) as receiver:
        variables = {"JOB_CALLBACK_URL": receiver.url, "JOB_CALLBACK_SECRET": SECRET, "PROGRESS_INTERVAL": "0.5"} | environment
        with WorkerProcess(module, runpod_api, folder, variables) as worker:
            runpod_api.wait_for(lambda: bool(runpod_api.takes), seconds=110.0, what="the worker's start")
            yield WorkerHarness(runpod_api, receiver, worker)


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerHarness]:
    """One worker for all tests of a module: jobs leave no state behind."""
    with start_worker(
        tmp_path_factory.mktemp("worker"), JOB_CONCURRENCY="3"
    ) as running:  # above 2 the SDK does not pause for a second per job
        yield running


@pytest.fixture
def own_harness(tmp_path: Path) -> Iterator[WorkerHarness]:
    """A worker for a single test, which may end it."""
    with start_worker(tmp_path) as running:
        yield running
