"""SDXL's blocks compiled by torch's own compiler, on the CPU: how often, with which result, and from the cache in a later process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fake_cuda.device_guard import compiler

ROOT = Path(__file__).parents[3]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.nightly,
    pytest.mark.timeout(600),
    pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler"),
]


def figures(jobs: int, cache: Path) -> Any:
    """What a process that compiles, and then runs jobs compiled and uncompiled, reports."""
    command = [sys.executable, "-m", "tests.handlers.sdxl.compiled_jobs", str(jobs)]
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_twenty_jobs_compile_nothing_and_differ_by_one_level_at_most_and_a_second_process_takes_all_graphs_from_the_cache(
    tmp_path: Path,
) -> None:
    first = figures(20, tmp_path)
    assert first["compiled"] == first["after_jobs"] == 2, "one for a single sample, one for all other numbers and sizes"
    assert first["cache"] == {"hit": 0, "miss": 2}
    assert first["images"] == 34
    assert first["most"] <= 1
    second = figures(2, tmp_path)
    assert (second["compiled"], second["cache"]) == (2, {"hit": 2, "miss": 0})
    assert second["most"] <= 1
