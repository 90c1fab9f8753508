"""Every fault case, in order and in a random order: the worker answers, loses nothing, and goes on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.fault_injection.cases import CASES
from tests.chaos.fault_injection.harness import Harness
from tests.chaos.fault_injection.invariants import Baseline, check_invariants, run_clean_job
from tests.chaos.fault_injection.page import render_page

ROOT = Path(__file__).parents[3]
IN_ORDER = sorted(CASES)
IN_RANDOM_ORDER = random.Random(20260101).sample(IN_ORDER, len(IN_ORDER))


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Harness]:
    yield from _harness(tmp_path_factory.mktemp("harness"), tiny_models)


@pytest.fixture(scope="module")
def second_harness(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Harness]:
    """A harness without any callbacks yet: cases count those of their jobs."""
    yield from _harness(tmp_path_factory.mktemp("harness"), tiny_models)


def _harness(folder: Path, models: Path) -> Iterator[Harness]:
    harness = Harness(folder, models)
    harness.worker()
    yield harness
    harness.close()


def survive(harness: Harness, number: str) -> None:
    """Runs a case, checks the invariants, and runs a clean job."""
    workers = [harness.worker(handler) for handler in ("sdxl", *CASES[number].handlers)]
    baselines = [Baseline(worker) for worker in workers]
    try:
        CASES[number].body(harness)
    finally:
        harness.clear_faults()
    check_invariants(harness, baselines)
    for worker in workers:
        run_clean_job(harness, worker.handler, number)


def test_the_page_is_current() -> None:
    assert (ROOT / "docs/reliability.md").read_text(encoding="utf-8") == render_page(), "run `make faults`"


# One case per group in the everyday suite, all of them in random order in the slow one; all of them in both orders in `make faults`.
EVERYDAY = {"F02", "F12", "F21", "F35", "F39"}
NIGHTLY = (pytest.mark.slow, pytest.mark.nightly)
MARKED = [number if number in EVERYDAY else pytest.param(number, marks=NIGHTLY) for number in IN_ORDER]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", MARKED)
def test_worker_survives_fault(harness: Harness, number: str) -> None:
    survive(harness, number)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", IN_RANDOM_ORDER)
def test_worker_survives_fault_in_random_order(second_harness: Harness, number: str) -> None:
    survive(second_harness, number)
