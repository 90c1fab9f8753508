"""A worker's memory, so that it can be measured from outside: what nobody needs any more is given back to the system first."""

from __future__ import annotations

import asyncio.base_events
import ctypes
import gc
from pathlib import Path

GIVEN_BACK = Path("given-back")
"""Made in the worker's folder when it is done."""


def give_back(_signal: int, _frame: object) -> None:
    """Gives back what is free, and what waits for Python's collector. Pages that hold anything that is in use stay."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    GIVEN_BACK.touch()


def sweep_timers() -> None:
    """Has asyncio let go of timers when half of them are cancelled, however few they are.

    Otherwise up to a hundred wait for their time, with all that they would have called, and then go together.
    """
    asyncio.base_events._MIN_SCHEDULED_TIMER_HANDLES = 0  # type: ignore[attr-defined]
