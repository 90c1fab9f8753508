"""A worker under test: its process, its fake RunPod API, and everything that can be injected into it or measured."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.fault_injection.injection import CALLS, CONNECTIONS, FAULTS, NAMES, ROUTES
from tests.chaos.fault_injection.memory import HEAP_IN_USE, non_heap_bytes
from tests.doubles.fake_runpod import FakeRunPodAPI
from tests.doubles.worker import WorkerProcess


@dataclass(frozen=True)
class JobResult:
    """A job that a worker has finished.

    Attributes:
        job: As RunPod handed it out.
        body: What the worker posted to RunPod.
        rejected: Whether the job had to fail before any work.
    """

    job: dict[str, Any]
    body: dict[str, Any]
    rejected: bool

    @property
    def output(self) -> dict[str, Any]:
        """The payload."""
        output: dict[str, Any] = self.body["output"]
        return output


@dataclass
class WorkerHandle:
    """Controls one worker.

    Attributes:
        results: All finished jobs, in order.
    """

    handler: str
    process: WorkerProcess
    runpod_api: FakeRunPodAPI
    results: list[JobResult] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Working directory of the process."""
        return self.process.folder

    @property
    def temp_folder(self) -> Path:
        """`TMPDIR` of the process."""
        return self.folder / "tmp"

    @property
    def is_running(self) -> bool:
        """Whether the process has not exited."""
        return self.process.process.poll() is None

    # Measurements

    @property
    def open_files(self) -> int:
        """Number of open file descriptors."""
        return len(os.listdir(f"/proc/{self.process.process.pid}/fd"))

    def memory(self, line: str = "VmRSS") -> int:
        """Returns a line of `/proc/PID/status` in bytes: `VmRSS` now, `VmHWM` at most since `reset_peak_memory`."""
        status = Path(f"/proc/{self.process.process.pid}/status").read_text()
        return int(status.partition(f"{line}:")[2].split()[0]) * 1024

    def memory_in_use(self, seconds: float = 60.0) -> int:
        """Returns the allocated bytes of the heap plus all pages outside of it. Free memory between allocations does not count."""
        report, deadline = self.folder / HEAP_IN_USE, time.monotonic() + seconds
        report.unlink(missing_ok=True)
        self.process.process.send_signal(signal.SIGUSR1)
        while not report.exists():
            assert time.monotonic() < deadline, f"the worker has not handled a signal within {seconds} s"
            time.sleep(0.005)
        return int(report.read_text()) + non_heap_bytes(self.process.process.pid)

    def reset_peak_memory(self) -> None:
        """Resets `VmHWM` to the current memory."""
        Path(f"/proc/{self.process.process.pid}/clear_refs").write_text("5")

    @property
    def connections(self) -> list[str]:
        """`ADDRESS PORT` of every connection so far."""
        log = self.folder / CONNECTIONS
        return log.read_text().splitlines() if log.exists() else []

    def calls(self, network: str) -> int:
        """Returns how often a network has been called."""
        log = self.folder / CALLS
        return log.read_text().split().count(network) if log.exists() else 0

    def wait_for_call(self, network: str = "denoiser", seconds: float = 60.0, *, more_than: int = 0) -> None:
        """Waits until a network has been called more than `more_than` times."""
        deadline = time.monotonic() + seconds
        while self.calls(network) <= more_than:
            assert time.monotonic() < deadline, f"{network} was not called within {seconds} s"
            time.sleep(0.02)

    # Faults

    def inject(self, target: str, fault: str, times: int = 1, *, skip: int = 0) -> None:
        """Makes the next `times` calls of a target fail, after `skip` calls that do not.

        Args:
            target: `denoiser`, `decoder`, or `writer` (chat), their results (`decoder result`), or `encoder`. For `kill`
                also a file operation of the outbox: `outbox open`, `outbox fsync`, `outbox rename`, `outbox remove`.
            fault: A key of `injection.actions()`, or `nan` or `black` for a result.
            times: Calls that fail.
            skip: Calls before that.
        """
        path = self.folder / FAULTS
        pending = json.loads(path.read_text()) if path.exists() else []
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps([*pending, {"target": target, "fault": fault, "times": times, "skip": skip}]))
        partial.rename(path)

    def set_dns(self, names: Mapping[str, Sequence[Sequence[str]]]) -> None:
        """Overrides DNS: each lookup of a name takes the next list of addresses, and the last one stays."""
        (self.folder / NAMES).write_text(json.dumps(dict(names)))

    def route(self, address: str, port: int) -> None:
        """Redirects connections to port 443 of a public address to a port on loopback."""
        (self.folder / ROUTES).write_text(json.dumps({address: port}))

    def clear_faults(self) -> None:
        """Removes all faults, DNS overrides and routes."""
        for name in (FAULTS, NAMES, ROUTES):
            (self.folder / name).unlink(missing_ok=True)

    # Jobs

    def run_job(self, job: dict[str, Any], *, rejected: bool = False, seconds: float = 90.0) -> dict[str, Any]:
        """Submits a job, and returns the payload that RunPod receives.

        Args:
            rejected: The job must fail before any work; the invariants check it.
        """
        before = len(self.runpod_api.results(job["id"]))
        self.runpod_api.submit(job)
        self.runpod_api.wait_for(lambda: len(self.runpod_api.results(job["id"])) > before, seconds, what=f"job {job['id']}")
        result = JobResult(job, self.runpod_api.results(job["id"])[before], rejected)
        self.results.append(result)
        return result.output

    def run_jobs(self, jobs: Sequence[dict[str, Any]], seconds: float = 600.0) -> list[dict[str, Any]]:
        """Submits jobs at once, and returns the payloads that RunPod receives."""
        for job in jobs:
            self.runpod_api.submit(job)
        results = [JobResult(job, self.runpod_api.result(job["id"], seconds), rejected=False) for job in jobs]
        self.results.extend(results)
        return [result.output for result in results]
