"""Growth is measured between 40 % of the jobs and the last one."""

from __future__ import annotations

from tests.chaos.soak.growth import measure_growth
from tests.chaos.soak.resources import ResourceSamples


def test_growth_before_the_reference_does_not_count() -> None:
    growth = measure_growth(ResourceSamples([10**9 * job for job in range(60)] + [60 * 10**9] * 90, [job for job in range(60)] + [60] * 90))
    assert growth is not None
    assert not growth.is_leak
