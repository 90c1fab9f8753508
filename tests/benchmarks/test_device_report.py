"""At full size, jobs do what the networks need and no more, and stay within the memory that decides what fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.device_report import DeviceUse, sdxl_rows, wan_row
from benchmarks.fake_cuda import can_build_device_guard

pytestmark = pytest.mark.skipif(not can_build_device_guard(), reason="needs a C++ compiler")


def check(row: DeviceUse) -> None:
    assert row.waits == 0
    assert 1 <= row.overhead <= 1.02
    assert row.denoising == pytest.approx(row.estimated_denoising, rel=0.1)
    assert row.decoding == pytest.approx(row.estimated_decoding, rel=0.1)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_sdxl_computes_what_its_networks_need_in_the_memory_that_was_estimated() -> None:
    for row in sdxl_rows():
        check(row)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_wan_computes_what_its_networks_need_in_the_memory_that_was_estimated(tiny_models: Path) -> None:
    check(wan_row(tiny_models))
