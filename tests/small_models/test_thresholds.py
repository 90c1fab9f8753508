"""Thresholds of the small models' metrics."""

from __future__ import annotations

import math

import pytest

from small_models.training.thresholds import BelowThreshold, require_at_least


def test_a_metric_at_its_threshold_passes() -> None:
    require_at_least("accuracy", 0.9, 0.9)


@pytest.mark.parametrize("value", [0.899, 0.0, math.nan])
def test_a_metric_below_its_threshold_fails_with_both_values(value: float) -> None:
    with pytest.raises(BelowThreshold, match=r"accuracy: .*, but at least 90% is required"):
        require_at_least("accuracy", value, 0.9)
