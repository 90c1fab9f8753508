"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], otherwise: str = "the condition has not become true", seconds: float = 60.0) -> None:
    """Waits until a condition is true.

    Args:
        condition: Called every 20 ms.
        otherwise: The message of the failure, without the time.
        seconds: After which waiting fails: long enough for a machine that is busy.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{otherwise} within {seconds} s"
        time.sleep(0.02)
