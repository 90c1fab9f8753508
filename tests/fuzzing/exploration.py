"""Hypothesis settings: number of examples and a deterministic seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from tests.budgets import within_budget

_SLOW_CHECKS = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)


def examples(everyday: int, nightly: int) -> pytest.MarkDecorator:
    """Parametrizes a test with `count`: few examples in everyday runs, many in `make test-nightly`."""
    marks = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(600)]
    return pytest.mark.parametrize("count", [everyday, pytest.param(nightly, marks=marks)])


def explore(strategy: SearchStrategy[Any], check: Callable[[Any], None], count: int) -> None:
    """Checks examples of a strategy, the same in every run: the seed is derived from the name of `check`. Each must stay within its budget.

    Args:
        strategy: Generates the examples.
        check: Asserts a property of one example.
        count: The number of examples.
    """
    phases = (Phase.generate,)  # no shrinking: it takes longer than understanding the original example
    profile = settings(
        max_examples=count, phases=phases, derandomize=True, database=None, deadline=None, suppress_health_check=_SLOW_CHECKS
    )

    @wraps(check)
    def check_within_budget(*example: Any, **named: Any) -> None:
        with within_budget():
            check(*example, **named)

    profile(given(strategy)(check_within_budget))()
