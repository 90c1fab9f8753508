"""The loop of the soak test: runs jobs one after the other, some of them with a fault, and checks the invariants after each."""

from __future__ import annotations

import random
import subprocess
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from playground.callback_receiver import CannedResponse
from tests.chaos.fault_injection.cases.machine import tmpfs
from tests.chaos.fault_injection.harness import Harness
from tests.chaos.fault_injection.invariants import Baseline, check_invariants
from tests.chaos.fault_injection.worker_handle import JobResult
from tests.chaos.soak.faults import SOAK_FAULTS
from tests.chaos.soak.lost_jobs import find_lost_jobs
from tests.chaos.soak.report import Report
from tests.chaos.soak.resources import ResourceSamples
from tests.chaos.soak.scenario import CANCELLED, COMPLETED, HANDLERS, KILLED, Scenario, SoakFault, faults_cleared, make_job

FAULT_PROBABILITY = 0.3

# Seconds until a job without any outcome fails.
_OUTCOME_TIMEOUT = 90.0
# A check that fails, or something that is missing.
_FAILURES = (AssertionError, LookupError, ValueError, OSError, subprocess.SubprocessError)


class Soak:
    """Runs random jobs in a harness.

    Args:
        harness: Its shared workers live from the first job to the last.
        seed: Determines jobs and faults.
        handlers: Handlers to draw jobs for.
        fault_probability: Probability that a job meets a fault.
    """

    def __init__(
        self, harness: Harness, seed: int, *, handlers: tuple[str, ...] = HANDLERS, fault_probability: float = FAULT_PROBABILITY
    ) -> None:
        self._harness = harness
        self._seed = seed
        self._handlers = handlers
        self._fault_probability = fault_probability
        self._excluded: set[str] = set()

    def run(self, count: int, progress: Callable[[Report], object] = lambda report: None, *, warm_up: int = 0) -> Report:
        """Runs jobs, delivers what is still pending, and looks for lost jobs.

        Args:
            count: Number of jobs.
            progress: Called after each job.
            warm_up: Number of jobs per handler to run at once before the others, followed by one job with each fault that the worker
                survives: whatever is imported or allocated on first use is, then. They are neither counted nor measured.
        """
        report = Report(resources={handler: ResourceSamples() for handler in self._handlers}, warm=warm_up > 0)
        with ExitStack() as stack:
            if "wan" in self._handlers:
                self._mount_temp_folder(stack)
            for handler in self._handlers:
                self._warm_up(handler, warm_up, report)
            for number in range(count):
                self._run_job(number, report)
                progress(report)
        self._harness.clear_faults()
        if self._harness.redeliver() != 0:
            report.failures["outbox"] = "entries are pending although all faults are cleared"
        report.lost = find_lost_jobs(self._harness, [f"soak-{number}" for number in range(count)])
        return report

    def _mount_temp_folder(self, stack: ExitStack) -> None:
        """Puts the temporary files of WAN's worker on a RAM disk that a fault can fill."""
        try:
            stack.enter_context(tmpfs(self._harness.worker("wan").temp_folder, "32m"))
        except pytest.skip.Exception:
            self._excluded.add("F26")  # the user must not mount

    def _warm_up(self, handler: str, count: int, report: Report) -> None:
        if count == 0:
            return
        self._leave_pending_callback(handler)
        rngs = [random.Random(f"{self._seed} {handler} {number}") for number in range(count)]
        jobs = [make_job(handler, f"warm-up-{handler}-{number}", self._harness, rng) for number, rng in enumerate(rngs)]
        outputs = self._harness.worker(handler).run_jobs(jobs)
        assert all(output["status"] == COMPLETED for output in outputs), "a job without a fault completes"
        for number, fault in enumerate(self._faults_of(handler)):
            if fault.exit_code is None:
                rng = random.Random(f"{self._seed} {handler} {fault.label}")
                self._try(handler, make_job(handler, f"warm-up-{handler}-fault-{number}", self._harness, rng), fault, rng, report)

    def _leave_pending_callback(self, handler: str) -> None:
        """Leaves an outbox entry for the shared worker to deliver at its start. Otherwise its first delivery comes minutes later."""
        assert self._harness.redeliver() == 0, "no other entry uses up the response"
        job = make_job(handler, f"warm-up-{handler}-pending", self._harness, random.Random(self._seed))
        with self._harness.dedicated_worker(handler) as worker:
            self._harness.set_callback_responses(CannedResponse(404))
            assert worker.run_job(job).get("callback_pending") is True

    def _run_job(self, number: int, report: Report) -> None:
        # One generator per job: what a job meets does not depend on the jobs before.
        rng = random.Random(f"{self._seed} {number}")
        handler = rng.choice(self._handlers)
        fault = self._draw_fault(handler, rng)
        job = make_job(handler, f"soak-{number}", self._harness, rng)
        label = _label(fault)
        report.count += 1
        report.faults[label] = report.faults.get(label, 0) + 1
        if self._try(handler, job, fault, rng, report):
            report.resources[handler].add(self._harness.worker(handler))

    def _try(self, handler: str, job: dict[str, Any], fault: SoakFault | None, rng: random.Random, report: Report) -> bool:
        """Runs a job and returns whether it was survived; notes the failure if not."""
        try:
            self._run_and_check(handler, job, fault, rng)
        except _FAILURES as error:
            report.failures[job["id"]] = f"{handler}, {_label(fault)}: {type(error).__name__} at {_location(error)}: {str(error)[:500]}"
            self._harness.clear_faults()
            if not self._harness.worker(handler).is_running:
                self._harness.forget_worker(handler)
            return False
        return True

    def _faults_of(self, handler: str) -> list[SoakFault]:
        return [fault for fault in SOAK_FAULTS if handler in fault.handlers and fault.number not in self._excluded]

    def _draw_fault(self, handler: str, rng: random.Random) -> SoakFault | None:
        if rng.random() >= self._fault_probability:
            return None
        faults = self._faults_of(handler)
        return rng.choices(faults, [fault.weight for fault in faults])[0]

    def _run_and_check(self, handler: str, job: dict[str, Any], fault: SoakFault | None, rng: random.Random) -> None:
        """Runs a job in the shared worker, or in a dedicated one if the fault ends it."""
        if fault is None or fault.exit_code is None:
            worker = self._harness.worker(handler)
            baseline = Baseline(worker)
            self._run_scenario(Scenario(self._harness, worker, rng, job), fault)
            check_invariants(self._harness, [baseline])
            return
        with self._harness.dedicated_worker(handler) as worker:
            outcome = self._run_scenario(Scenario(self._harness, worker, rng, job), fault)
            assert worker.process.wait(60) == fault.exit_code
        check_invariants(self._harness, [])
        if outcome == KILLED:
            self._redeliver_job(handler, job)

    def _redeliver_job(self, handler: str, job: dict[str, Any]) -> None:
        """Runs a job of a killed worker again, as RunPod does."""
        objects = self._harness.storage.objects
        stored = {key: objects[key].content for key in list(objects) if f"/{job['id']}/" in key}
        worker = self._harness.worker(handler)
        baseline = Baseline(worker)
        assert worker.run_job(job)["status"] == COMPLETED
        check_invariants(self._harness, [baseline])
        assert {key: objects[key].content for key in stored} == stored, "files of the killed worker are unchanged"

    def _run_scenario(self, scenario: Scenario, fault: SoakFault | None) -> str:
        """Runs a job with its fault, and returns its outcome."""
        with faults_cleared(scenario):
            if fault is not None:
                fault.prepare(scenario)
            for _ in range(scenario.deliveries):
                scenario.worker.runpod_api.submit(scenario.job)
            scenario.during()
            outcomes = self._wait_for_outcomes(scenario)
        allowed = {COMPLETED} if fault is None else fault.outcomes
        assert set(outcomes) <= allowed, f"the outcomes are {outcomes}"
        assert fault is not None or "callback_pending" not in scenario.worker.results[-1].output, "a callback without a fault is delivered"
        return outcomes[-1]

    def _wait_for_outcomes(self, scenario: Scenario) -> list[str]:
        """Waits until RunPod has the results of all deliveries of a job, or cannot receive them any more."""
        runpod_api, deadline = scenario.worker.runpod_api, time.monotonic() + _OUTCOME_TIMEOUT
        while True:
            running = scenario.worker.is_running  # before the results: the worker may post one and exit in between
            if len(runpod_api.results(scenario.job_id)) >= scenario.deliveries:
                break
            if not running:
                return [KILLED]
            if self._was_cancelled(scenario.job_id):
                return [CANCELLED]
            assert time.monotonic() < deadline, f"no outcome within {_OUTCOME_TIMEOUT} s"
            time.sleep(0.02)
        results = [JobResult(scenario.job, body, scenario.rejected) for body in runpod_api.results(scenario.job_id)]
        scenario.worker.results.extend(results)
        return [str(result.output["metadata"].get("error_code") or COMPLETED) for result in results]

    def _was_cancelled(self, job_id: str) -> bool:
        payloads = [payload for payload in self._harness.receiver.payloads if payload["job_id"] == job_id]
        return any(payload["metadata"].get("error_code") == "CANCELLED" for payload in payloads)


def _label(fault: SoakFault | None) -> str:
    return "no fault" if fault is None else fault.label


def _location(error: BaseException) -> str:
    """Returns where an error was raised, for assertions without a message: `invariants.py:137`."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"
