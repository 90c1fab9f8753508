"""One worker, and what was done with it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.faults.memory import IN_USE, beside_heap
from tests.doubles.gateway import Gateway
from tests.doubles.worker import WorkerProcess


@dataclass(frozen=True)
class Done:
    """One job that a case had done.

    Attributes:
        job: As RunPod handed it out.
        body: What RunPod was posted.
        refused: Whether it had to fail before any work.
    """

    job: dict[str, Any]
    body: dict[str, Any]
    refused: bool

    @property
    def output(self) -> dict[str, Any]:
        output: dict[str, Any] = self.body["output"]
        return output


@dataclass
class Running:
    """One worker of a handler."""

    handler: str
    process: WorkerProcess
    gateway: Gateway
    done: list[Done] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.process.folder

    @property
    def temporary(self) -> Path:
        """Where it keeps temporary files."""
        return self.folder / "tmp"

    @property
    def files_open(self) -> int:
        return len(os.listdir(f"/proc/{self.process.process.pid}/fd"))

    def memory(self, line: str = "VmRSS") -> int:
        """Bytes: `VmRSS` now, `VmHWM` at most since `forget_peak`, and what else the system says of a process."""
        status = Path(f"/proc/{self.process.process.pid}/status").read_text()
        return int(status.partition(f"{line}:")[2].split()[0]) * 1024

    def memory_in_use(self, seconds: float = 30.0) -> int:
        """Bytes that somebody holds: of the heap what was given out, and all pages beside it."""
        told, ends = self.folder / IN_USE, time.monotonic() + seconds
        told.unlink(missing_ok=True)
        self.process.process.send_signal(signal.SIGUSR1)
        while not told.exists():
            assert time.monotonic() < ends, "the worker does not heed a signal"
            time.sleep(0.005)
        return int(told.read_text()) + beside_heap(self.process.process.pid)

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.process.pid}/clear_refs").write_text("5")

    @property
    def connections(self) -> list[str]:
        """Every address that it has ever connected to, with its port."""
        log = self.folder / "connections.log"
        return log.read_text().splitlines() if log.exists() else []

    def wait_for_call(self, name: str = "denoiser", seconds: float = 30.0, *, more_than: int = 0) -> None:
        """Returns when a network has been called, more often than it had been."""
        ends = time.monotonic() + seconds
        while self.calls(name) <= more_than:
            assert time.monotonic() < ends, f"no {name} was called within {seconds} s"
            time.sleep(0.02)

    def calls(self, name: str) -> int:
        """How often a network was called."""
        log = self.folder / "calls.log"
        return log.read_text().split().count(name) if log.exists() else 0

    def sabotage(self, where: str, what: str, times: int = 1, *, after: int = 0) -> None:
        """Lets a network meet a fault: `denoiser`, `decoder`, chat's `writer`, or the result of one: `decoder result`.

        `kill` is a fault that the `encoder` can meet too, and what is done to the outbox: `outbox open`, `outbox fsync`, `outbox rename`,
        `outbox remove`. It spares so many calls as `after` says.
        """
        path = self.folder / "sabotage.json"
        orders = json.loads(path.read_text()) if path.exists() else []
        path.write_text(json.dumps([*orders, {"where": where, "what": what, "times": times, "after": after}]))

    def names(self, names: Mapping[str, Sequence[Sequence[str]]]) -> None:
        """Lets names resolve so: each look-up takes the next list of addresses."""
        (self.folder / "names.json").write_text(json.dumps(dict(names)))

    def lead(self, address: str, port: int) -> None:
        """Lets connections to port 443 of a public address end at a port of this machine."""
        (self.folder / "routes.json").write_text(json.dumps({address: port}))

    def do_all(self, jobs: Sequence[dict[str, Any]], seconds: float = 600.0) -> list[dict[str, Any]]:
        """Has jobs done, all handed out at once, and returns the payloads that RunPod gets."""
        for job in jobs:
            self.gateway.submit(job)
        done = [Done(job, self.gateway.result(job["id"], seconds), refused=False) for job in jobs]
        self.done.extend(done)
        return [each.output for each in done]

    def do(self, job: dict[str, Any], *, refused: bool = False, seconds: float = 90.0) -> dict[str, Any]:
        """Has a job done and returns the payload that RunPod gets."""
        before = len(self.gateway.results(job["id"]))
        self.gateway.submit(job)
        self.gateway.wait_for(lambda: len(self.gateway.results(job["id"])) > before, seconds, what=f"job {job['id']}")
        done = Done(job, self.gateway.results(job["id"])[before], refused)
        self.done.append(done)
        return done.output
