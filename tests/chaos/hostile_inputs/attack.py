"""Sends hostile inputs to the shared worker of a handler, and a good job with some of them."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.fault_injection.harness import Harness, chat, sdxl, wan
from tests.chaos.hostile_inputs.budget import MAX_MEMORY, MAX_PROCESSOR_SECONDS, Meter
from tests.chaos.hostile_inputs.registry import HostileInput
from tests.chaos.soak.scenario import Scenario

GOOD_JOBS = 3
"""A good job is in flight with every third input."""


@dataclass(frozen=True)
class Cost:
    """What an input has cost, and how its job has ended."""

    input: HostileInput
    outcome: str
    processor_seconds: float
    memory: int

    def __str__(self) -> str:
        return f"{self.processor_seconds:5.2f} s {self.memory / 1e6:5.0f} MB  {self.input.handler:5} {self.input.name}: {self.outcome}"


@dataclass
class Attack:
    """The inputs that one worker meets.

    Attributes:
        costs: What each has cost.
    """

    harness: Harness
    handler: str
    costs: list[Cost] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._worker = self.harness.worker(self.handler)
        self._files = self._run_good_job("warm-up")
        self._good_seconds = statistics.median(self._seconds_of_good_job(number) for number in range(3))

    def _seconds_of_good_job(self, number: int) -> float:
        meter = Meter(self._worker)
        assert self._run_good_job(f"alone-{number}") == self._files
        return meter.processor_seconds

    def send(self, number: int, hostile: HostileInput) -> Cost:
        """Runs the job of an input, and a good job with every third. Asserts that the worker survives and the good job has its bytes."""
        job = self._good_job(f"hostile-{self.handler}-{number}")
        scenario = Scenario(self.harness, self._worker, random.Random(number), job)
        hostile.prepare(scenario)
        good = self._good_job(f"good-{self.handler}-{number}") if number % GOOD_JOBS == 0 else None
        meter = Meter(self._worker)
        api = self._worker.runpod_api
        for each in [job, *([good] if good else [])]:
            api.submit(each)
        # A job may name itself otherwise; RunPod knows it by its own id.
        api.wait_for(lambda: bool(api.results(job["id"])) or not self._worker.is_running, 90, what=hostile.name)
        assert self._worker.is_running, f"{hostile.name} has ended the worker"
        output = api.results(job["id"])[0]["output"]
        if good is not None:
            assert self._files_of(api.result(good["id"], 90)["output"]) == self._files, "the good job has other bytes"
        seconds = meter.processor_seconds - (self._good_seconds if good is not None else 0.0)
        outcome = str(output["metadata"].get("error_code") or output["status"])
        if outcome == "completed":  # as a good job does, which is not the input's cost
            seconds -= self._good_seconds
        self.costs.append(Cost(hostile, outcome, max(0.0, seconds), meter.memory))
        return self.costs[-1]

    def _run_good_job(self, name: str) -> list[Any]:
        return self._files_of(self._worker.run_job(self._good_job(f"{name}-{self.handler}")))

    def _good_job(self, job_id: str) -> dict[str, Any]:
        if self.handler == "chat":
            return chat(job_id, self.harness.receiver.url)
        return (wan if self.handler == "wan" else sdxl)(job_id)

    def _files_of(self, output: dict[str, Any]) -> list[Any]:
        assert output["status"] == "completed", output["error_message"]
        objects = self.harness.storage.objects
        return [asset["content"] if asset["type"] == "text" else objects[asset["url"]].content for asset in output["assets"]]


def verdict(cost: Cost) -> str | None:
    """Returns what is wrong with an input's outcome or cost; None if nothing is."""
    if cost.outcome not in cost.input.outcomes:
        return f"it ended as {cost.outcome}, not as {' or '.join(sorted(cost.input.outcomes))}"
    if cost.processor_seconds > MAX_PROCESSOR_SECONDS:
        return f"it took {cost.processor_seconds:.1f} s of processor time"
    return f"it took {cost.memory / 1e6:.0f} MB" if cost.memory > MAX_MEMORY else None
