"""Fixtures of all tests."""

from __future__ import annotations

import gc
import os
from itertools import chain, zip_longest
from pathlib import Path

import pytest

from tests.doubles.models import tiny_models_at

# Set before torch is imported, and inherited by subprocesses: on a busy machine, OpenMP's spinning threads slow small models down up to
# 15-fold, and a second thread gains nothing.
os.environ.setdefault("OMP_NUM_THREADS", "1")


_MAX_PROCESSES = 4  # of up to two GB each
_WAITING = ("tests/chaos/", "tests/shared/serverless/")
"""Their tests wait for workers most of the time."""
_COMPUTING = "tests/handlers/"


def pytest_xdist_auto_num_workers() -> int:
    """Returns the number for `--numprocesses auto`: two more than cores, because tests of workers wait for half of their time."""
    return min(len(os.sched_getaffinity(0)) + 2, _MAX_PROCESSES)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In parallel runs, alternates files that wait and files that compute, and puts short ones last: files are handed out in this order."""
    if not hasattr(config, "workerinput"):
        return
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    waiting = [tests for name, tests in files.items() if name.startswith(_WAITING)]
    computing = [tests for name, tests in files.items() if name.startswith(_COMPUTING)]
    others = [tests for name, tests in files.items() if not name.startswith((*_WAITING, _COMPUTING))]
    alternating = chain.from_iterable(zip_longest(waiting, computing, fillvalue=[]))
    items[:] = [item for tests in (*alternating, *others) for item in tests]


def pytest_collection_finish() -> None:
    """Moves all imported objects to the permanent generation, so that later garbage collections do not traverse them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_models(pytestconfig: pytest.Config) -> Path:
    """A read-only MODELS_DIR of tiny models: `sdxl`, `wan`, `qwen_instruct`, `qwen_base`. Generated once per machine."""
    return tiny_models_at(pytestconfig.rootpath)


@pytest.fixture(scope="session")
def small_models(pytestconfig: pytest.Config) -> Path:
    """The read-only folder of the small trained models: `sdxl`, `wan` and add-ons."""
    return pytestconfig.rootpath / "small_models"


@pytest.fixture(scope="session")
def models(pytestconfig: pytest.Config) -> Path:
    """The read-only folder of `make models`, which the demo uses."""
    folder = pytestconfig.rootpath / "models"
    if not (folder / "qwen_instruct" / "config.json").is_file():
        pytest.skip("run `make models` first")
    return folder
