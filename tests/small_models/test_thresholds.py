"""A small model that does less than its card says is not passed."""

from __future__ import annotations

import math

import pytest

from small_models.training.thresholds import Missed, demand


def test_a_figure_that_is_reached_passes() -> None:
    demand("attributes right", 0.9, 0.9)


@pytest.mark.parametrize("measured", [0.899, 0.0, math.nan])
def test_a_figure_that_is_not_reached_is_named_with_what_it_must_be(measured: float) -> None:
    with pytest.raises(Missed, match=r"attributes right: .*, and the least is 90%"):
        demand("attributes right", measured, 0.9)
