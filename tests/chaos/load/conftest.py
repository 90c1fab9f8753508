"""The harness that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.load.harness import LoadHarness, start_load_harness


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadHarness]:
    """A stub worker with up to four jobs in flight."""
    with start_load_harness(tmp_path_factory.mktemp("load")) as harness:
        yield harness
