"""Memory in use of a worker: allocated heap bytes and the pages outside the heap, without free memory between allocations."""

from __future__ import annotations

import asyncio.base_events
import ctypes
import gc
import linecache
import urllib.parse
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types are a package of their own
import yarl

HEAP_IN_USE = Path("heap-in-use")
"""File in the worker's folder to which it writes its allocated heap bytes."""


class _MallInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc; `uordblks` is the number of allocated bytes."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def report_heap(_signal: int, _frame: object) -> None:
    """Signal handler: collects garbage, trims the heap, and writes the number of allocated bytes to `HEAP_IN_USE`."""
    _clear_library_caches()
    gc.collect()
    library = ctypes.CDLL(None)
    library.malloc_trim(0)
    library.mallinfo2.restype = _MallInfo
    partial = HEAP_IN_USE.with_suffix(".part")
    partial.write_text(str(library.mallinfo2().uordblks))
    partial.rename(HEAP_IN_USE)


def _clear_library_caches() -> None:
    """Clears caches whose size depends on the last few jobs: 128 URLs each in `urllib` and `yarl`, and the source lines of tracebacks."""
    urllib.parse.clear_cache()  # type: ignore[attr-defined]  # missing in its stubs
    yarl._url.encode_url.cache_clear()  # not covered by `yarl.cache_clear`
    linecache.clearcache()


def non_heap_bytes(process: int) -> int:
    """Returns the private bytes of a process, swapped ones included, outside the heap. Assumes one malloc arena."""
    mappings = psutil.Process(process).memory_maps(grouped=False)
    return sum(each.anonymous + each.swap for each in mappings if each.path != "[heap]")


def purge_cancelled_timers() -> None:
    """Makes asyncio drop cancelled timers once they are the majority. By default it keeps up to a hundred, with all that they reference."""
    asyncio.base_events._MIN_SCHEDULED_TIMER_HANDLES = 0  # type: ignore[attr-defined]
