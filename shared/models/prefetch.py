"""Prefetches weight files into the page cache, ahead of the code that loads them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from queue import Empty, SimpleQueue

from shared.weights.folders import weight_files

_BLOCK = 16 * 2**20  # bytes; network volumes answer large reads faster than page faults
_READERS = 4  # one reader reaches less than half of a disk's throughput, four nearly all

# The files of the `prefetched` blocks around the current code. Set and reset by them only.
_prefetching: ContextVar[frozenset[Path]] = ContextVar("prefetching", default=frozenset())

Block = tuple[Path, int]


@contextmanager
def prefetched(files: Iterable[Path]) -> Iterator[None]:
    """Reads files into the page cache while the body imports libraries and builds the first networks.

    Loaders memory-map the weights, so prefetched blocks are not read again. Reading stops when the body ends. A file that cannot be read is
    skipped: the loader reports it. A file is read once if the body, on the same thread, prefetches it too: a handler begins before the
    imports, and its loader, which also serves others, would begin after them.

    Args:
        files: In the order in which they are needed.
    """
    outer = _prefetching.get()
    new = [path for path in files if path not in outer]
    blocks: SimpleQueue[Block] = SimpleQueue()
    for path in new:
        for offset in range(0, path.stat().st_size, _BLOCK):
            blocks.put((path, offset))
    stop = threading.Event()
    with ThreadPoolExecutor(_READERS, thread_name_prefix="prefetch") as pool:
        for _ in range(_READERS):
            pool.submit(_read, blocks, stop)
        token = _prefetching.set(outer.union(new))
        try:
            yield
        finally:
            _prefetching.reset(token)
            stop.set()


def all_weight_files(weights: Path, *, half: bool) -> Iterator[Path]:
    """Lists the weight files of a model whose loader is not imported yet, roughly in the order in which they are needed.

    Args:
        weights: A single-file checkpoint, a network's own folder, or a diffusers folder. The names of the components of SDXL and of WAN are
            in the alphabetical order in which they are loaded.
        half: Whether files in half precision are preferred.
    """
    if weights.is_file():
        yield weights
        return
    for folder in (weights, *sorted(path for path in weights.iterdir() if path.is_dir())):
        yield from weight_files(folder, half=half)


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
