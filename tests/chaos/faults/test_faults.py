"""Every fault, one after the other and in an order of chance: the worker answers, loses nothing, and goes on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.faults.invariants import Before, check, good_job
from tests.chaos.faults.page import page
from tests.chaos.faults.registry import CASES
from tests.chaos.faults.world import World

ROOT = Path(__file__).parents[3]
IN_ORDER = sorted(CASES)
BY_CHANCE = random.Random(20260101).sample(IN_ORDER, len(IN_ORDER))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[World]:
    yield from _world(tmp_path_factory.mktemp("world"), tiny_models)


@pytest.fixture(scope="module")
def another_world(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[World]:
    """In which no job was done yet: cases count the callbacks about theirs."""
    yield from _world(tmp_path_factory.mktemp("world"), tiny_models)


def _world(folder: Path, models: Path) -> Iterator[World]:
    around = World(folder, models)
    around.worker()
    yield around
    around.close()


def survive(world: World, number: str) -> None:
    """Injects the fault, checks what must hold, and does a good job."""
    workers = [world.worker(handler) for handler in ("sdxl", *CASES[number].handlers)]
    before = [Before(running) for running in workers]
    try:
        CASES[number].body(world)
    finally:
        world.calm()
    check(world, before)
    for running in workers:
        good_job(world, running.handler, number)


def test_the_page_of_the_documentation_is_current() -> None:
    assert (ROOT / "docs/reliability.md").read_text(encoding="utf-8") == page(), "run `make faults`"


# One of each group every day; all of them, in both orders, by `make faults`.
EVERY_DAY = {"F02", "F12", "F21", "F35", "F39"}
MARKED = [number if number in EVERY_DAY else pytest.param(number, marks=pytest.mark.slow) for number in IN_ORDER]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", MARKED)
def test_a_fault_is_survived(world: World, number: str) -> None:
    survive(world, number)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", BY_CHANCE)
def test_a_fault_is_survived_in_any_order(another_world: World, number: str) -> None:
    survive(another_world, number)
