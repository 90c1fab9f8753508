"""Each hostile input, sent to a real worker while good jobs go on: it gets its error within its budget, and no one else notices."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.fault_injection.harness import Harness
from tests.chaos.hostile_inputs.attack import Attack, verdict
from tests.chaos.hostile_inputs.inputs import HOSTILE_INPUTS
from tests.chaos.soak.scenario import HANDLERS


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Harness]:
    # The size is the default; the time is shorter, because one host uses all of it.
    limits = {"REFERENCE_MAX_BYTES": str(20 * 2**20), "REFERENCE_DEADLINE": "5"}
    harness = Harness(tmp_path_factory.mktemp("harness"), tiny_models, limits)
    yield harness
    harness.close()


def test_there_are_at_least_eighty_inputs() -> None:
    assert len({hostile.name for hostile in HOSTILE_INPUTS}) >= 80


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("handler", HANDLERS)
def test_hostile_inputs_end_no_worker_cost_little_and_leave_good_jobs_alone(harness: Harness, handler: str) -> None:
    attack = Attack(harness, handler)
    wrong = {}
    for number, hostile in enumerate(each for each in HOSTILE_INPUTS if each.handler == handler):
        cost = attack.send(number, hostile)
        sys.stdout.write(f"{cost}\n")
        if (problem := verdict(cost)) is not None:
            wrong[hostile.name] = problem
    assert wrong == {}
    log = harness.worker(handler).process.log
    assert [word for word in ("Traceback", "canary") if word in log] == []
