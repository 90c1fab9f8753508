"""Every feature at full size stays within the memory that was estimated, and its steps do not wait for the device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import sdxl_features, wan_features
from benchmarks.fake_cuda import can_build_device_guard
from benchmarks.feature_counts import FeatureUse

pytestmark = [
    pytest.mark.slow,
    pytest.mark.nightly,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not can_build_device_guard(), reason="needs a C++ compiler"),
]

NOT_ESTIMATED = 40_000_000
"""Bytes of text embeddings, of the scheduler's state and the like: the estimates' allowances cover them."""


def check_memory(row: FeatureUse) -> None:
    for used, estimated in (
        (row.preparing, row.estimated_preparing),
        (row.denoising, row.estimated_denoising),
        (row.decoding, row.estimated_decoding),
    ):
        if estimated or used > 2e8:  # the text encoders alone need less
            assert estimated - used <= 0.1 * used, (row.feature, used, estimated)
            assert used - estimated <= max(0.1 * estimated, NOT_ESTIMATED), (row.feature, used, estimated)


def counted(rows: Iterator[FeatureUse], waiting: dict[str, range]) -> None:
    """Checks the rows; `waiting` has the features whose steps wait, and how often in ten steps."""
    seen = []
    for row in rows:
        check_memory(row)
        assert row.waits_in_steps in waiting.get(row.feature, range(1)), (row.feature, row.waits_in_steps)
        seen.append(row.feature)
    assert set(waiting) <= set(seen)


def test_sdxl() -> None:
    """Each preview is read. diffusers noises an inpainted reference anew in every step, and sets up the refiner's schedule in its first."""
    counted(sdxl_features.sdxl_features(), {"previews": range(3, 4), "inpainting": range(1, 41), "refiner": range(1, 6)})


def test_wan(tiny_models: Path) -> None:
    """Each preview is read. UniPC looks up its first step in pipelines with references; a first-block cache decides for each pass."""
    waiting = {
        "previews": range(10, 11),
        "first-block cache": range(1, 21),
        **dict.fromkeys(("first and last frame, by VACE", "reference, by VACE", *wan_features.IMAGE_TO_VIDEO), range(4)),
    }
    counted(wan_features.wan_features(tiny_models / "wan/tokenizer"), waiting)
