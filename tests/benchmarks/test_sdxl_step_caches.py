"""At full size, DeepCache saves the operations of the inner blocks in two steps of three, and needs no memory for it."""

from __future__ import annotations

import pytest

from benchmarks.fake_cuda import can_build_device_guard
from benchmarks.sdxl_step_caches import denoising_costs

pytestmark = pytest.mark.skipif(not can_build_device_guard(), reason="needs a C++ compiler")

SHARES = {"none": 1.0, "deepcache": 0.3074, "deepcache_shallow": 0.0672}
"""The share of the UNet's operations outside the reused blocks, as torch's own counter counts them."""


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_a_cache_saves_the_operations_of_the_reused_blocks_and_takes_no_memory() -> None:
    costs = list(denoising_costs(10))
    assert {cost.acceleration for cost in costs} == set(SHARES)
    for cost in costs:
        expected = (4 + 6 * SHARES[cost.acceleration]) / 10
        assert cost.operations / costs[0].operations == pytest.approx(expected, rel=0.001)
        assert cost.memory <= costs[0].memory
        assert cost.waits == 0
