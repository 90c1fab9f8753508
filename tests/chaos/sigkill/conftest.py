"""The harness that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.sigkill.kill_harness import KillHarness


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[KillHarness]:
    environment = {"STORE_CALLBACK": "true", "CALLBACK_PROCESSING": "true", "UPLOAD_DEADLINE": "3"}
    harness = KillHarness(tmp_path_factory.mktemp("harness"), tiny_models, environment)
    yield harness
    harness.close()
