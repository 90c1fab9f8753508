"""What a worker has in use, by its allocator's own account."""

from __future__ import annotations

import ctypes
from pathlib import Path

IN_USE = Path("in-use")
"""Where it is told, in the worker's folder."""


class _Allocated(ctypes.Structure):
    """What `mallinfo2` of the C library says of all its heaps; `uordblks` and `hblkhd` are bytes in use, within them and beside them."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def tell_memory(_signal: int, _frame: object) -> None:
    """Gives back to the system what is free, and writes down how many bytes are not."""
    library = ctypes.CDLL(None)
    library.malloc_trim(0)
    library.mallinfo2.restype = _Allocated
    allocated = library.mallinfo2()
    told = IN_USE.with_suffix(".part")
    told.write_text(str(allocated.uordblks + allocated.hblkhd))
    told.rename(IN_USE)
