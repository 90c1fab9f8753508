"""A stand-in for vLLM's server: the real processes, log and requests of the worker's side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.vllm import StandIn, stand_in_at


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setenv("VLLM_STAND_IN", str(tmp_path))
    with stand_in_at(tmp_path) as stand_in:
        yield stand_in
