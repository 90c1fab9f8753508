"""A stateful test: in any sequence of jobs, faults, cancellations and restarts, invariants hold and no result is lost."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count as counting
from pathlib import Path
from typing import Any

import pytest
import stamina
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from playground.callback_receiver import CannedResponse
from shared.contract.callback import FailedPayload, to_dict
from shared.contract.request import Identity
from shared.jobs.lifecycle import Completed, Failed, Outcome, Stopped
from shared.media.encoding import encode_image
from tests.doubles.fake_storage import Fault, drops_the_response, fails_with, truncates_the_response
from tests.doubles.jobs import webhook_id
from tests.fuzzing.exploration import examples
from tests.fuzzing.harness import TIMEOUT, Attempt, Environment, Machine, pixels

USER = "user-1"
IMAGES = (1, 3, 1)
"""Number of images of each of the three jobs; the third is invalid."""
MAX_IN_FLIGHT = 8
STORAGE_OUTAGES: tuple[Fault, ...] = (fails_with(503), fails_with(403), drops_the_response, truncates_the_response)
RECEIVER_OUTAGES = (CannedResponse(503), CannedResponse(404), CannedResponse(reset=True))


def wait_until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < ends, "timed out"
        time.sleep(0.002)


def _has_result(outcome: Outcome) -> bool:
    """Whether the caller was promised a result, now or later."""
    return isinstance(outcome, Completed) or bool(outcome.payload.metadata.assets_pending)


class Jobs(RuleBasedStateMachine):
    """Three jobs and two workers on one volume, and the expected state."""

    environment: Environment
    uploads: Counter[str]
    numbers: Iterator[int]

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"m{next(self.numbers)}"
        self.environment.storage.objects.clear()
        self.previous_callbacks = len(self.environment.receiver.accepted)
        self.machines = [Machine(self.environment, self.prefix) for _ in range(2)]
        self.in_flight: list[Attempt] = []
        self.outcomes: list[tuple[str, Outcome]] = []
        self.deliveries: Counter[str] = Counter()
        self.partial_entries: set[Path] = set()

    # Rules

    @initialize(fault=st.sampled_from([None, *STORAGE_OUTAGES]), answer=st.sampled_from([None, None, *RECEIVER_OUTAGES]))
    def begin(self, fault: Fault | None, answer: CannedResponse | None) -> None:
        """Starts with or without outages."""
        self.storage_outage(fault)
        self.receiver_outage(answer)

    @precondition(lambda self: len(self.in_flight) < MAX_IN_FLIGHT)
    @rule(which=st.sampled_from([1, 0, 2]), machine=st.integers(0, 1), fails_at=st.sampled_from([None, 2, 0]))
    def deliver(self, which: int, machine: int, fails_at: int | None) -> None:
        """RunPod delivers a job, for the first time or again, possibly while it is in flight."""
        job = f"{self.prefix}-{which}"
        config = {"resolution": "64x64", "steps": 10 if which < 2 else 99, "seed": which * 100, "num_images": IMAGES[which]}
        raw = {"id": job, "user_id": USER, "type": "sdxl_image_fast", "prompt": "a heron", "config": config}
        attempt = Attempt(job, f"{job}-{len(self.outcomes) + len(self.in_flight)}", fails_at, self.machines[machine].worker)
        self.environment.start(attempt, raw)
        self.deliveries[job] += which < 2
        self.in_flight.append(attempt)
        self._wait_until_idle(attempt)

    @precondition(lambda self: self.in_flight)
    @rule(which=st.integers(0, 20))
    def generate_next_image(self, which: int) -> None:
        """An attempt generates its next image, or fails."""
        attempt = self.in_flight[which % len(self.in_flight)]
        uploaded = self.uploads["upload"]
        attempt.is_waiting.clear()
        attempt.permits.release()
        self._wait_until_idle(attempt)
        wait_until(lambda: attempt.is_done or self.uploads["upload"] > uploaded)

    @precondition(lambda self: self.in_flight)
    @rule(which=st.integers(0, 20))
    def finish(self, which: int) -> None:
        """An attempt runs to its end."""
        attempt = self.in_flight[which % len(self.in_flight)]
        while attempt in self.in_flight:
            self.generate_next_image(self.in_flight.index(attempt))

    @precondition(lambda self: self.in_flight)
    @rule(which=st.integers(0, 20))
    def cancel(self, which: int) -> None:
        """RunPod cancels an attempt."""
        self._stop(self.in_flight[which % len(self.in_flight)])

    @rule(machine=st.integers(0, 1))
    def restart(self, machine: int) -> None:
        """A worker is replaced. The new one starts by delivering the outbox."""
        for attempt in [each for each in self.in_flight if self.machines[machine].worker is each.worker]:
            self._stop(attempt)
        self.machines[machine].close()
        self.machines[machine] = Machine(self.environment, self.prefix)
        self.machines[machine].redelivery.run()

    @rule(which=st.integers(0, 1))
    def crash_while_writing(self, which: int) -> None:
        """A worker is killed while it writes an outbox entry and leaves a partial one."""
        outbox = self.machines[0].outbox
        before = self._folders()
        outbox.writer(Identity(f"{self.prefix}-{which}", USER, None, None)).add(f"{USER}/{self.prefix}-{which}/0.png", b"half", "image/png")
        self.partial_entries |= self._folders() - before

    @rule()
    def redeliver(self) -> None:
        """The redelivery interval has passed."""
        self.machines[0].redelivery.run()

    @rule(fault=st.sampled_from([None, *STORAGE_OUTAGES]))
    def storage_outage(self, fault: Fault | None) -> None:
        """Storage fails, stores objects without confirming, or recovers."""
        self.environment.storage.outage = fault

    @rule(answer=st.sampled_from([None, *RECEIVER_OUTAGES]))
    def receiver_outage(self, answer: CannedResponse | None) -> None:
        """The receiver fails or recovers."""
        self.environment.receiver.outage = answer

    # Invariants

    @invariant()
    def every_outcome_has_a_payload_in_strict_json(self) -> None:
        for job, outcome in self.outcomes:
            payload = to_dict(outcome.payload)
            assert json.dumps(payload, allow_nan=False)
            assert payload["job_id"] == job
            if isinstance(outcome, Failed | Stopped):
                FailedPayload.model_validate_json(json.dumps(payload))
                assert payload["metadata"]["error_code"] in {"INTERNAL_ERROR", "UPLOAD_ERROR", "VALIDATION_ERROR", "CANCELLED"}

    @invariant()
    def every_outcome_was_delivered_or_is_pending_and_no_failure_replaces_a_result(self) -> None:
        known = {(payload["job_id"], payload["status"]) for payload in [*self._delivered(), *self._pending()]}
        for job, outcome in self.outcomes:
            assert outcome.callback_pending or to_dict(outcome.payload) in self._delivered()
            assert (job, "completed") in known or (not _has_result(outcome) and (job, "failed") in known)

    @invariant()
    def every_asset_of_a_result_is_stored_unchanged_and_nothing_else_is(self) -> None:
        completed = [to_dict(outcome.payload) for _, outcome in self.outcomes if isinstance(outcome, Completed)]
        for payload in [*completed, *self._delivered()]:
            for index, asset in enumerate(payload["assets"]):
                assert asset["url"] == f"{USER}/{payload['job_id']}/{index}.png"
                assert self._content(asset["url"]) == encode_image(pixels(asset["generation_seed"]), "png")
                assert asset["file_size_bytes"] == len(self._content(asset["url"]))
                assert self._content(asset["thumbnail_url"])
        assert all(key.startswith(f"{USER}/{self.prefix}-") for key in self.environment.storage.objects)

    @invariant()
    def webhook_ids_are_stable_and_processing_is_announced_at_most_once_per_attempt(self) -> None:
        for message in self.environment.receiver.accepted[self.previous_callbacks :]:
            assert message.verified
            payload = message.payload
            expected = webhook_id(payload["job_id"], payload["status"], user_id=USER, runpod_id=payload["metadata"]["runpod_id"])
            assert message.headers["webhook-id"] == expected
        announced = Counter(payload["job_id"] for payload in self._delivered() if payload["status"] == "processing")
        assert all(announced[job] <= self.deliveries[job] for job in announced)

    @invariant()
    def no_temporary_file_remains(self) -> None:
        """An image's folder is deleted shortly after its upload."""
        wait_until(lambda: not list(Path(tempfile.gettempdir()).iterdir()))

    def teardown(self) -> None:
        """After all outages, every attempt completes and the outbox is delivered: nothing is lost."""
        self.storage_outage(None)
        self.receiver_outage(None)
        while self.in_flight:
            self.generate_next_image(0)
        self.machines[1].redelivery.run()
        for check in (
            self.every_outcome_has_a_payload_in_strict_json,
            self.every_outcome_was_delivered_or_is_pending_and_no_failure_replaces_a_result,
        ):
            check()
        self.every_asset_of_a_result_is_stored_unchanged_and_nothing_else_is()
        assert self._folders() == self.partial_entries, "the outbox is empty except for partial entries"
        for machine in self.machines:
            machine.close()

    # Helpers

    def _wait_until_idle(self, attempt: Attempt) -> None:
        """Blocks until an attempt waits for a permit or has ended."""
        wait_until(lambda: attempt.is_done or attempt.is_waiting.is_set())
        if attempt.is_done:
            self.in_flight.remove(attempt)
            self.outcomes.append((attempt.job, attempt.task.result()))

    def _stop(self, attempt: Attempt) -> None:
        async def stop() -> None:
            attempt.task.cancel()
            await asyncio.wait([attempt.task])

        self.environment.run(stop())
        self._wait_until_idle(attempt)

    def _delivered(self) -> list[dict[str, Any]]:
        return [message.payload for message in self.environment.receiver.accepted[self.previous_callbacks :]]

    def _folders(self) -> set[Path]:
        folder = self.environment.settings(self.prefix).outbox
        return set(folder.iterdir()) if folder.is_dir() else set()

    def _pending(self) -> list[dict[str, Any]]:
        """Returns the payloads in the outbox."""
        entries = [path / "entry.json" for path in self._folders() if not path.name.endswith(".part")]
        return [json.loads(json.loads(entry.read_bytes())["payload"]) for entry in entries]

    def _content(self, key: str) -> bytes:
        assert key in self.environment.storage.objects
        stored = self.environment.storage.objects[key]
        assert stored.metadata["sha256"] == hashlib.sha256(stored.content).hexdigest()
        return stored.content


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with Environment(tmp_path) as environment:
        yield environment


@examples(20, 120)
def test_no_sequence_of_jobs_and_faults_loses_a_result_or_violates_an_invariant(count: int, environment: Environment) -> None:
    steps: Counter[str] = Counter()

    def count_steps(_logger: object, _method: str, line: Any) -> Any:
        steps.update([line["step"]] if line.get("event") == "step" else [])
        raise structlog.DropEvent

    structlog.configure(processors=[count_steps])

    class BoundJobs(Jobs):
        pass

    BoundJobs.environment, BoundJobs.uploads, BoundJobs.numbers = environment, steps, counting()
    profile = settings(
        max_examples=count,
        stateful_step_count=25,
        phases=(Phase.generate,),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    with stamina.set_testing(True, attempts=2, cap=True):
        run_state_machine_as_test(BoundJobs, settings=profile)
