"""The loop: one job after the other, what each has met, and what the workers hold afterwards."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from playground.callback_receiver import Answer
from tests.chaos.faults.cases_c import small_disk
from tests.chaos.faults.invariants import Before, check
from tests.chaos.faults.running import Done
from tests.chaos.faults.world import World
from tests.chaos.soak.audit import lost
from tests.chaos.soak.draws import COMPLETED, DRAWS, HANDLERS, KILLED, STOPPED, Draw, Turn, calm_again, good_job
from tests.chaos.soak.held import Held

SHARE = 0.3
"""Of the jobs that meet a fault."""

# Seconds until a job that nobody has heard of is given up.
_PATIENCE = 90.0
# Of a check that does not hold, or of something that is not there at all.
_NOT_SURVIVED = (AssertionError, LookupError, ValueError, OSError, subprocess.SubprocessError)


@dataclass
class Report:
    """What has become of the jobs.

    Attributes:
        met: How many jobs met each fault.
        failures: Of each job that was not survived: what did not hold.
        lost: Of each job that came to nothing: how.
        held: By handlers.
    """

    count: int = 0
    met: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)


class Soak:
    """Has jobs done in a world.

    Args:
        world: Around the workers.
        seed: Of everything that is drawn.
        handlers: Whose jobs.
        share: Of the jobs that meet a fault.
    """

    def __init__(self, world: World, seed: int, *, handlers: tuple[str, ...] = HANDLERS, share: float = SHARE) -> None:
        self._world = world
        self._seed = seed
        self._handlers = handlers
        self._share = share
        self._left_out: set[str] = set()

    def run(self, count: int, progress: Callable[[Report], object] = lambda report: None, *, first: int = 0) -> Report:
        """Does so many jobs, then delivers what still waits and looks for what was lost.

        Args:
            count: Jobs.
            progress: Called after each.
            first: So many of each handler come before, all at once, and meet nothing, then one for each fault that its worker outlives.
                They are neither counted nor measured: the worker has met everything once.
        """
        report = Report(held={handler: Held() for handler in self._handlers})
        with ExitStack() as stack:
            if "wan" in self._handlers:
                self._give_a_disk(stack)
            for handler in self._handlers:
                self._work_in(handler, first, report)
            for number in range(count):
                self._job(number, report)
                progress(report)
        self._world.calm()
        if self._world.redeliver() != 0:
            report.failures["outbox"] = "something waits although all faults are over"
        report.lost = lost(self._world, [f"soak-{number}" for number in range(count)])
        return report

    def _give_a_disk(self, stack: ExitStack) -> None:
        """A small one, which can be filled."""
        try:
            stack.enter_context(small_disk(self._world.worker("wan").temporary, "32m"))
        except pytest.skip.Exception:
            self._left_out.add("F26")  # only who may mount can fill a disk

    def _work_in(self, handler: str, count: int, report: Report) -> None:
        if count == 0:
            return
        self._leave_waiting(handler)
        # Of their own: no job that is counted is one of these once more.
        chances = [random.Random(f"{self._seed} {handler} {number}") for number in range(count)]
        jobs = [good_job(handler, f"first-{handler}-{number}", self._world, chance) for number, chance in enumerate(chances)]
        ends = self._world.worker(handler).do_all(jobs)
        assert all(end["status"] == COMPLETED for end in ends), "nothing was in its way"
        for number, draw in enumerate(self._fitting(handler)):
            if draw.exits is None:
                chance = random.Random(f"{self._seed} {handler} {draw.name}")
                self._try(handler, good_job(handler, f"first-{handler}-fault-{number}", self._world, chance), draw, chance, report)

    def _leave_waiting(self, handler: str) -> None:
        """A result that nobody has received. The handler's worker delivers it as it starts, or only minutes later, when it is measured."""
        job = good_job(handler, f"first-{handler}-waiting", self._world, random.Random(self._seed))
        with self._world.own_worker(handler) as running:
            self._world.answers(Answer(404))
            assert running.do(job).get("callback_pending") is True

    def _job(self, number: int, report: Report) -> None:
        # Of its own, so that what a job meets does not depend on how the one before went.
        chance = random.Random(f"{self._seed} {number}")
        handler = chance.choice(self._handlers)
        draw = self._draw(handler, chance)
        job = good_job(handler, f"soak-{number}", self._world, chance)
        name = "nothing" if draw is None else f"{draw.number} {draw.name}"
        report.count += 1
        report.met[name] = report.met.get(name, 0) + 1
        if self._try(handler, job, draw, chance, report):
            report.held[handler].note(self._world.worker(handler))

    def _try(self, handler: str, job: dict[str, Any], draw: Draw | None, chance: random.Random, report: Report) -> bool:
        """Has a job done, and returns whether it was survived."""
        try:
            self._do(handler, job, draw, chance)
        except _NOT_SURVIVED as error:
            name = "nothing" if draw is None else f"{draw.number} {draw.name}"
            report.failures[job["id"]] = f"{handler}, {name}: {type(error).__name__}: {str(error)[:500]}"
            self._world.calm()
            if self._world.worker(handler).process.process.poll() is not None:
                self._world.forget(handler)
            return False
        return True

    def _fitting(self, handler: str) -> list[Draw]:
        return [draw for draw in DRAWS if handler in draw.handlers and draw.number not in self._left_out]

    def _draw(self, handler: str, chance: random.Random) -> Draw | None:
        if chance.random() >= self._share:
            return None
        fitting = self._fitting(handler)
        return chance.choices(fitting, [draw.weight for draw in fitting])[0]

    def _do(self, handler: str, job: dict[str, Any], draw: Draw | None, chance: random.Random) -> None:
        if draw is None or draw.exits is None:
            running = self._world.worker(handler)
            before = Before(running)
            self._meet(Turn(self._world, running, chance, job), draw)
            check(self._world, [before])
            return
        with self._world.own_worker(handler) as running:
            end = self._meet(Turn(self._world, running, chance, job), draw)
            assert running.process.wait(60) == draw.exits
        check(self._world, [])
        if end == KILLED:
            self._do_again(handler, job)

    def _do_again(self, handler: str, job: dict[str, Any]) -> None:
        """As RunPod does with a job whose worker is gone."""
        objects = self._world.storage.objects
        stored = {key: objects[key].content for key in list(objects) if f"/{job['id']}/" in key}
        running = self._world.worker(handler)
        before = Before(running)
        assert running.do(job)["status"] == COMPLETED
        check(self._world, [before])
        assert {key: objects[key].content for key in stored} == stored, "what was there already is what is there now"

    def _meet(self, turn: Turn, draw: Draw | None) -> str:
        """Has a job done while its fault is there, and returns how it ended."""
        with calm_again(turn):
            if draw is not None:
                draw.prepare(turn)
            for _ in range(turn.deliveries):
                turn.running.gateway.submit(turn.job)
            turn.meanwhile()
            ends = self._ends(turn)
        allowed = {COMPLETED} if draw is None else draw.ends
        assert set(ends) <= allowed, f"ended as {ends}"
        assert draw is not None or "callback_pending" not in turn.running.done[-1].output, "nothing was in its way"
        return ends[-1]

    def _ends(self, turn: Turn) -> list[str]:
        """Waits until RunPod has heard of all deliveries of a job, or will not."""
        gateway, ends = turn.running.gateway, time.monotonic() + _PATIENCE
        while len(gateway.results(turn.id)) < turn.deliveries:
            if turn.running.process.process.poll() is not None:
                return [KILLED]
            if self._was_stopped(turn.id):
                return [STOPPED]
            assert time.monotonic() < ends, "nobody has heard how it ended"
            time.sleep(0.02)
        done = [Done(turn.job, body, turn.refused) for body in gateway.results(turn.id)]
        turn.running.done.extend(done)
        return [str(each.output["metadata"].get("error_code", COMPLETED)) for each in done]

    def _was_stopped(self, job_id: str) -> bool:
        told = [payload for payload in self._world.inbox.payloads if payload["job_id"] == job_id]
        return any(payload["metadata"].get("error_code") == "CANCELLED" for payload in told)
