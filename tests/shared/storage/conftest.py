"""Storage servers for one test, and retries without their pauses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import stamina

from tests.doubles.fake_storage import FakeStorage
from tests.doubles.s3_server import FaultProxy, S3Server

KEY = "canary-service-key"


@pytest.fixture(autouse=True)
def _no_backoff() -> Iterator[None]:
    with stamina.set_testing(True, attempts=10, cap=True):
        yield


@pytest.fixture
def server() -> Iterator[FakeStorage]:
    with FakeStorage(KEY) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("buckets")).running() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server) as proxy:
        yield proxy
