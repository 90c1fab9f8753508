"""What a worker has in use of its memory: what somebody holds, and not what is free between two things that are held."""

from __future__ import annotations

import asyncio.base_events
import ctypes
import gc
import linecache
import urllib.parse
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types are a package of their own
import yarl

IN_USE = Path("in-use")
"""Where it is told, in the worker's folder."""


class _Allocated(ctypes.Structure):
    """What `mallinfo2` of the C library says of its heaps; `uordblks` are the bytes that were asked for and not given back."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def tell_heap(_signal: int, _frame: object) -> None:
    """Gives back to the system what is free, and writes down how many bytes are in use."""
    _forget()
    gc.collect()
    library = ctypes.CDLL(None)
    library.malloc_trim(0)
    library.mallinfo2.restype = _Allocated
    told = IN_USE.with_suffix(".part")
    told.write_text(str(library.mallinfo2().uordblks))
    told.rename(IN_USE)


def _forget() -> None:
    """Empties what libraries keep of the last 128 URLs, long ones and short ones, and of files that a traceback came from."""
    urllib.parse.clear_cache()  # type: ignore[attr-defined]  # its stubs lack it
    yarl._url.encode_url.cache_clear()  # `yarl.cache_clear` leaves this one
    linecache.clearcache()


def beside_heap(process: int) -> int:
    """Bytes of a process that are its own, in memory or moved out of it, and in no heap of the C library that has one only."""
    mappings = psutil.Process(process).memory_maps(grouped=False)
    return sum(each.anonymous + each.swap for each in mappings if each.path != "[heap]")


def sweep_timers() -> None:
    """Has asyncio let go of timers when half of them are cancelled, however few they are.

    Otherwise up to a hundred wait for their time, with all that they would have called, and then go together.
    """
    asyncio.base_events._MIN_SCHEDULED_TIMER_HANDLES = 0  # type: ignore[attr-defined]
