"""A hub with one repository, and the command that downloads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.weights.catalogue import QWEN_BASE
from tests.builder.download_command import FILES, Download
from tests.doubles.fake_hub import FakeHub


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(FILES, QWEN_BASE.repo, str(QWEN_BASE.revision)) as running:
        yield running


@pytest.fixture
def download(hub: FakeHub, tmp_path: Path) -> Download:
    return Download(hub, tmp_path)
