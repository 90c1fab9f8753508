"""What is measured about WAN: the memory that a long clip takes, and that the measure of its speed runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.clip_memory import SHORT, measure, raw
from benchmarks.wan_speed import report


def test_the_measure_of_speed_runs_on_the_small_models(tiny_models: Path) -> None:
    lines = list(report(tiny_models, tiny=True))
    assert len(lines) == 7
    assert all("lossless" in line for line in (lines[2], lines[5]))
    assert all("of the matrix rate" in line for line in (lines[3], lines[6]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_long_clip_on_its_way_to_storage_takes_less_than_one_and_a_half_of_itself(tiny_models: Path) -> None:
    frames = 41  # 49 MB; the benchmark has twice as many
    short, long = (measure(tiny_models, "job", count) for count in (SHORT, frames))
    took = long - short
    said = f"{frames} frames are {raw(frames) / 1e6:.0f} MB and took {took / 1e6:.0f} MB: {took / raw(frames):.2f} clips"
    print(said)  # noqa: T201 - a measure is to be seen
    assert took < 1.5 * raw(frames), said
