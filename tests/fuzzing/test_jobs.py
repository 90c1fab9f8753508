"""Jobs, faults, stops and new starts in any order: what holds after every step, and that nothing is lost in the end."""

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
from shared.media.images import encode_image
from tests.doubles.fake_storage import Fault, drops_the_response, fails_with, truncates_the_response
from tests.doubles.jobs import webhook_id
from tests.fuzzing.exploration import examples
from tests.fuzzing.harness import PATIENCE, Around, Delivery, Machine, pixels

USER = "user-1"
PICTURES = (1, 3, 1)
"""Of each of the three jobs that there are; the third is not valid."""
MOST_IN_HAND = 8
OUTAGES: tuple[Fault, ...] = (fails_with(503), fails_with(403), drops_the_response, truncates_the_response)
ABSENCES = (CannedResponse(503), CannedResponse(404), CannedResponse(reset=True))


def wait_until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, "it takes too long"
        time.sleep(0.002)


def _promises(end: Outcome) -> bool:
    """Whether a caller was told that there is a result, or that there will be one."""
    return isinstance(end, Completed) or bool(end.payload.metadata.assets_pending)


class Jobs(RuleBasedStateMachine):
    """Three jobs, two workers on one volume, and what the test knows of them."""

    around: Around
    uploads: Counter[str]
    numbers: Iterator[int]

    def __init__(self) -> None:
        super().__init__()
        self.mark = f"m{next(self.numbers)}"
        self.around.storage.objects.clear()
        self.seen = len(self.around.receiver.accepted)
        self.machines = [Machine(self.around, self.mark) for _ in range(2)]
        self.in_hand: list[Delivery] = []
        self.ends: list[tuple[str, Outcome]] = []
        self.deliveries: Counter[str] = Counter()
        self.residue: set[Path] = set()

    # What happens

    @initialize(fault=st.sampled_from([None, *OUTAGES]), answer=st.sampled_from([None, None, *ABSENCES]))
    def begin(self, fault: Fault | None, answer: CannedResponse | None) -> None:
        """The day may begin badly."""
        self.storage(fault)
        self.receiver(answer)

    @precondition(lambda self: len(self.in_hand) < MOST_IN_HAND)
    @rule(which=st.sampled_from([1, 0, 2]), machine=st.integers(0, 1), fails_at=st.sampled_from([None, 2, 0]))
    def deliver(self, which: int, machine: int, fails_at: int | None) -> None:
        """RunPod hands a job out, for the first time or again, also while it is in hand."""
        job = f"{self.mark}-{which}"
        config = {"resolution": "64x64", "steps": 10 if which < 2 else 99, "seed": which * 100, "num_images": PICTURES[which]}
        raw = {"id": job, "user_id": USER, "type": "sdxl_image_fast", "prompt": "a heron", "config": config}
        delivery = Delivery(job, f"{job}-{len(self.ends) + len(self.in_hand)}", fails_at, self.machines[machine].worker)
        self.around.begin(delivery, raw)
        self.deliveries[job] += which < 2
        self.in_hand.append(delivery)
        self._settle(delivery)

    @precondition(lambda self: self.in_hand)
    @rule(which=st.integers(0, 20))
    def go_on(self, which: int) -> None:
        """A job makes its next picture, or meets its fault."""
        delivery = self.in_hand[which % len(self.in_hand)]
        uploaded = self.uploads["upload"]
        delivery.waits.clear()
        delivery.may.release()
        self._settle(delivery)
        wait_until(lambda: delivery.ended or self.uploads["upload"] > uploaded)

    @precondition(lambda self: self.in_hand)
    @rule(which=st.integers(0, 20))
    def finish(self, which: int) -> None:
        """A job goes on to its end."""
        delivery = self.in_hand[which % len(self.in_hand)]
        while delivery in self.in_hand:
            self.go_on(self.in_hand.index(delivery))

    @precondition(lambda self: self.in_hand)
    @rule(which=st.integers(0, 20))
    def cancel(self, which: int) -> None:
        """RunPod stops a job."""
        self._stop(self.in_hand[which % len(self.in_hand)])

    @rule(machine=st.integers(0, 1))
    def restart(self, machine: int) -> None:
        """A worker is replaced. The next one delivers what waits, as its first deed."""
        for delivery in [each for each in self.in_hand if self.machines[machine].worker is each.worker]:
            self._stop(delivery)
        self.machines[machine].close()
        self.machines[machine] = Machine(self.around, self.mark)
        self.machines[machine].redelivery.run()

    @rule(which=st.integers(0, 1))
    def die(self, which: int) -> None:
        """A worker that is killed while it keeps a result leaves a part of it behind."""
        outbox = self.machines[0].outbox
        before = self._folders()
        outbox.writer(Identity(f"{self.mark}-{which}", USER, None, None)).add(f"{USER}/{self.mark}-{which}/0.png", b"half", "image/png")
        self.residue |= self._folders() - before

    @rule()
    def redeliver(self) -> None:
        """The time for what waits has come."""
        self.machines[0].redelivery.run()

    @rule(fault=st.sampled_from([None, *OUTAGES]))
    def storage(self, fault: Fault | None) -> None:
        """Storage fails, or stores and cannot say so, or is back."""
        self.around.storage.outage = fault

    @rule(answer=st.sampled_from([None, *ABSENCES]))
    def receiver(self, answer: CannedResponse | None) -> None:
        """The receiver is away, or back."""
        self.around.receiver.away = answer

    # What holds

    @invariant()
    def every_end_is_answered_in_strict_json(self) -> None:
        for job, end in self.ends:
            said = to_dict(end.payload)
            assert json.dumps(said, allow_nan=False)
            assert said["job_id"] == job
            if isinstance(end, Failed | Stopped):
                FailedPayload.model_validate_json(json.dumps(said))
                assert said["metadata"]["error_code"] in {"INTERNAL_ERROR", "UPLOAD_ERROR", "VALIDATION_ERROR", "CANCELLED"}

    @invariant()
    def every_end_was_told_or_waits_and_a_result_is_not_outdone_by_a_failure(self) -> None:
        known = {(payload["job_id"], payload["status"]) for payload in [*self._told(), *self._waiting()]}
        for job, end in self.ends:
            assert end.callback_pending or to_dict(end.payload) in self._told()
            assert (job, "completed") in known or (not _promises(end) and (job, "failed") in known)

    @invariant()
    def what_a_result_names_is_stored_to_the_byte_and_nothing_lies_elsewhere(self) -> None:
        ended = [to_dict(end.payload) for _, end in self.ends if isinstance(end, Completed)]
        for payload in [*ended, *self._told()]:
            for index, asset in enumerate(payload["assets"]):
                assert asset["url"] == f"{USER}/{payload['job_id']}/{index}.png"
                assert self._content(asset["url"]) == encode_image(pixels(asset["generation_seed"]), "png")
                assert asset["file_size_bytes"] == len(self._content(asset["url"]))
                assert self._content(asset["thumbnail_url"])
        assert all(key.startswith(f"{USER}/{self.mark}-") for key in self.around.storage.objects)

    @invariant()
    def a_job_has_one_id_for_each_of_its_ends_and_is_processed_once_for_each_delivery(self) -> None:
        for message in self.around.receiver.accepted[self.seen :]:
            assert message.verified
            assert message.headers["webhook-id"] == webhook_id(message.payload["job_id"], message.payload["status"], user_id=USER)
        begun = Counter(payload["job_id"] for payload in self._told() if payload["status"] == "processing")
        assert all(begun[job] <= self.deliveries[job] for job in begun)

    @invariant()
    def no_temporary_file_stays(self) -> None:
        """A picture's folder goes a moment after it was uploaded."""
        wait_until(lambda: not list(Path(tempfile.gettempdir()).iterdir()))

    def teardown(self) -> None:
        """Everything is up again, all jobs come to their end, and what waits is delivered once: nothing is lost."""
        self.storage(None)
        self.receiver(None)
        while self.in_hand:
            self.go_on(0)
        self.machines[1].redelivery.run()
        for holds in (self.every_end_is_answered_in_strict_json, self.every_end_was_told_or_waits_and_a_result_is_not_outdone_by_a_failure):
            holds()
        self.what_a_result_names_is_stored_to_the_byte_and_nothing_lies_elsewhere()
        assert self._folders() == self.residue, "the outbox is empty, but for what the dead have left"
        for machine in self.machines:
            machine.close()

    # What is looked at

    def _settle(self, delivery: Delivery) -> None:
        """Returns when a job waits to be told to go on, or has ended."""
        wait_until(lambda: delivery.ended or delivery.waits.is_set())
        if delivery.ended:
            self.in_hand.remove(delivery)
            self.ends.append((delivery.job, delivery.task.result()))

    def _stop(self, delivery: Delivery) -> None:
        async def stop() -> None:
            delivery.task.cancel()
            await asyncio.wait([delivery.task])

        self.around.run(stop())
        self._settle(delivery)

    def _told(self) -> list[dict[str, Any]]:
        return [message.payload for message in self.around.receiver.accepted[self.seen :]]

    def _folders(self) -> set[Path]:
        folder = self.around.settings(self.mark).outbox
        return set(folder.iterdir()) if folder.is_dir() else set()

    def _waiting(self) -> list[dict[str, Any]]:
        """The payloads in the outbox."""
        entries = [path / "entry.json" for path in self._folders() if not path.name.endswith(".part")]
        return [json.loads(json.loads(entry.read_bytes())["payload"]) for entry in entries]

    def _content(self, key: str) -> bytes:
        assert key in self.around.storage.objects
        stored = self.around.storage.objects[key]
        assert stored.metadata["sha256"] == hashlib.sha256(stored.content).hexdigest()
        return stored.content


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Around]:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with Around(tmp_path) as around:
        yield around


@examples(20, 120)
def test_whatever_happens_to_jobs_nothing_is_lost_and_nothing_is_said_that_is_not_so(count: int, around: Around) -> None:
    ended: Counter[str] = Counter()

    def note(_logger: object, _method: str, line: Any) -> Any:
        ended.update([line["step"]] if line.get("event") == "step" else [])
        raise structlog.DropEvent

    structlog.configure(processors=[note])

    class Chosen(Jobs):
        pass

    Chosen.around, Chosen.uploads, Chosen.numbers = around, ended, counting()
    chosen = settings(
        max_examples=count,
        stateful_step_count=25,
        phases=(Phase.generate,),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    with stamina.set_testing(True, attempts=2, cap=True):
        run_state_machine_as_test(Chosen, settings=chosen)
