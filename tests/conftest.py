"""Fixtures of all tests."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from tests.doubles.models import tiny_models_at

# Set before torch is imported, and inherited by subprocesses: on a busy machine, OpenMP's spinning threads slow small models down up to
# 15-fold, and a second thread gains nothing.
os.environ.setdefault("OMP_NUM_THREADS", "1")


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
