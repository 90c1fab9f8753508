"""What the small models must show at the least, so that a worse one cannot be committed unnoticed."""

from __future__ import annotations


class Missed(Exception):
    """A model does less than its card says."""


def demand(what: str, measured: float, least: float) -> None:
    """Passes if a figure is reached.

    Args:
        what: What was measured, for the message.
        measured: The figure, 0 … 1.
        least: What it must reach.

    Raises:
        Missed: It is not reached.
    """
    if not measured >= least:  # not a number is not enough
        raise Missed(f"{what}: {measured:.1%}, and the least is {least:.0%}.")
