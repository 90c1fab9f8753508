"""A real S3 server, started once for all tests that need it, and a bucket of its own for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.doubles.s3_server import FaultProxy, S3Server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("buckets")).running() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server) as proxy:
        yield proxy
