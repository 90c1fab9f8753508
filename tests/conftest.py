"""What many tests share."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from tests.doubles.models import tiny_models_at

# Before torch is imported, and for every process that a test starts: where others use the cores too, threads that wait for each other
# in a spin turn a second into a quarter of a minute, and the small models gain nothing from a second thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """What has been imported by now stays. The collector then need not look through it whenever a recipe wants its memory back."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_models(pytestconfig: pytest.Config) -> Path:
    """A folder that serves as MODELS_DIR: `sdxl`, `wan`, `qwen_instruct`, `qwen_base`. Made once per machine; never to be written to."""
    return tiny_models_at(pytestconfig.rootpath)


@pytest.fixture(scope="session")
def small_models(pytestconfig: pytest.Config) -> Path:
    """The trained models of the repository, which do what they are asked: `sdxl`, `wan` and attachments. Never to be written to."""
    return pytestconfig.rootpath / "small_models"


@pytest.fixture(scope="session")
def models(pytestconfig: pytest.Config) -> Path:
    """The folder of `make models`: what the demo runs on. Never to be written to."""
    folder = pytestconfig.rootpath / "models"
    if not (folder / "qwen_instruct" / "config.json").is_file():
        pytest.skip("`make models` makes it")
    return folder
