"""Benchmarks run, in a small form, and print what they promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import sdxl_speed


@pytest.mark.slow
def test_speed_is_measured_beside_a_plain_call_of_diffusers(tiny_models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sdxl_speed.main([str(tiny_models / "sdxl"), "--side", "64", "--steps", "10", "--batches", "1", "3", "--rounds", "1"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("64 × 64, 10 steps, ")
    assert [line.split("at once, ")[1].split("  ")[0].strip() for line in lines] == ["this worker", "diffusers"] * 2
    assert all("s a picture" in line and "% of the rate" in line for line in lines)
