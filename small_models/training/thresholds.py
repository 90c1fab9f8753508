"""Minimum metrics of the small models, so that a regression cannot be committed unnoticed."""

from __future__ import annotations


class BelowThreshold(Exception):
    """A metric is below the minimum that the model card promises."""


def require_at_least(metric: str, value: float, threshold: float) -> None:
    """Checks a metric.

    Args:
        metric: Its name, for the message.
        value: The measured value, 0 … 1.
        threshold: The minimum, 0 … 1.

    Raises:
        BelowThreshold: The value is below the threshold, or not a number.
    """
    if not value >= threshold:  # also false for NaN
        raise BelowThreshold(f"{metric}: {value:.1%}, but at least {threshold:.0%} is required.")
