"""How much is drawn, and from which seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

_SLOW_CHECKS = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)


def examples(everyday: int, deep: int) -> pytest.MarkDecorator:
    """Gives a test its argument `count`: a little every day, much in `make test-slow`."""
    return pytest.mark.parametrize("count", [everyday, pytest.param(deep, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])


def explore(strategy: SearchStrategy[Any], check: Callable[[Any], None], count: int) -> None:
    """Checks so many examples, the same in every run: the seed is made from the name of `check`.

    Args:
        strategy: What is drawn.
        check: Asserts what must hold for each.
        count: How many.
    """
    phases = (Phase.generate,)  # a smaller example would take longer to find than it takes to read this one
    chosen = settings(max_examples=count, phases=phases, derandomize=True, database=None, deadline=None, suppress_health_check=_SLOW_CHECKS)
    chosen(given(strategy)(check))()
