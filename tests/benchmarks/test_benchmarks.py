"""Benchmarks run on small inputs and print their measurements."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import sdxl_speed


@pytest.mark.slow
def test_sdxl_speed_compares_this_worker_with_diffusers(tiny_models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sdxl_speed.main([str(tiny_models / "sdxl"), "--side", "64", "--steps", "10", "--batches", "1", "3", "--rounds", "1"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("64 × 64, 10 steps, ")
    implementations = [line.partition(", ")[2].split("  ")[0].strip() for line in lines]
    assert implementations == ["this worker", "diffusers"] * 2
    assert all("s per image" in line and "% of the rate" in line for line in lines)
