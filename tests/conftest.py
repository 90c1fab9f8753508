"""What many tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.make_tiny_models import make_tiny_models


@pytest.fixture(scope="session")
def tiny_models(pytestconfig: pytest.Config) -> Path:
    """A folder that serves as MODELS_DIR: `sdxl`, `wan`, `qwen_instruct`, `qwen_base`. Made once per machine; never to be written to."""
    folder = pytestconfig.rootpath / ".pytest_cache" / "tiny_models"
    make_tiny_models(folder)
    return folder
