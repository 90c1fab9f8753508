"""Storage servers for one test, and retries without their pauses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import stamina

from tests.doubles.fake_storage import FakeStorage

KEY = "canary-service-key"


@pytest.fixture(autouse=True)
def _no_backoff() -> Iterator[None]:
    with stamina.set_testing(True, attempts=10, cap=True):
        yield


@pytest.fixture
def server() -> Iterator[FakeStorage]:
    with FakeStorage(KEY) as server:
        yield server
