"""Reads weights ahead of the code that loads them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue

_BLOCK = 16 * 2**20  # bytes; large reads suit network volumes, which answer page faults slowly
_READERS = 4  # one reader gets less than half of what a disk gives, four nearly all of it

Block = tuple[Path, int]


@contextmanager
def prefetched(files: Iterable[Path]) -> Iterator[None]:
    """Reads files into the page cache while the body runs: while libraries are imported and the first networks are built.

    The weights are memory-mapped by whoever loads them, so what is read ahead is not read again. Reading stops when the body ends. A file
    that cannot be read is left to the loader to report.

    Args:
        files: What to read, first what is needed first.
    """
    blocks: SimpleQueue[Block] = SimpleQueue()
    for path in files:
        for offset in range(0, path.stat().st_size, _BLOCK):
            blocks.put((path, offset))
    stop = threading.Event()
    with ThreadPoolExecutor(_READERS, thread_name_prefix="prefetch") as pool:
        for _ in range(_READERS):
            pool.submit(_read, blocks, stop)
        try:
            yield
        finally:
            stop.set()


def _read(blocks: SimpleQueue[Block], stop: threading.Event) -> None:
    buffer = bytearray(_BLOCK)
    while not stop.is_set():
        try:
            path, offset = blocks.get_nowait()
        except Empty:
            return
        with suppress(OSError), path.open("rb", buffering=0) as file:
            file.seek(offset)
            file.readinto(buffer)
