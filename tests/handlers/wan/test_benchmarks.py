"""The WAN benchmarks: the memory of a long clip, and a run of the speed benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.clip_memory import SHORT, measure, raw
from benchmarks.wan_speed import report


def test_the_speed_benchmark_runs_on_the_small_models(tiny_models: Path) -> None:
    lines = list(report(tiny_models, tiny=True))
    assert len(lines) == 7
    assert all("lossless" in line for line in (lines[2], lines[5]))
    assert all("of the matrix rate" in line for line in (lines[3], lines[6]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_storing_a_long_clip_takes_less_memory_than_one_and_a_half_raw_clips(tiny_models: Path) -> None:
    frames, size = 61, (240, 416)  # 18 MB; the benchmark has more frames, of the full size
    short, long = (measure(tiny_models, "job", count, size) for count in (SHORT, frames))
    growth, clip = long - short, raw(frames, size)
    result = f"{frames} frames are {clip / 1e6:.0f} MB and took {growth / 1e6:.0f} MB: {growth / clip:.2f} clips"
    print(result)  # noqa: T201 - shows the measurement
    assert growth < 1.5 * clip, result
