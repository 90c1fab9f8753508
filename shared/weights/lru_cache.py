"""What was read from disk stays in memory, within a bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class Kept:
    """The results of reading files, the least recently used of which are forgotten when they take too much.

    Args:
        limit: Bytes that they may take together. One that alone takes more is kept until another one is read.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._results: OrderedDict[object, tuple[Any, int]] = OrderedDict()

    @property
    def size(self) -> int:
        """Bytes that are taken now."""
        return sum(size for _, size in self._results.values())

    def get(self, path: Path, read: Callable[[Path], T], size_of: Callable[[T], int], *, form: object = None) -> T:
        """What `read` makes of a file or a folder; it is called only when that is not kept, or has changed since.

        Args:
            path: What is read.
            read: Reads it. What it raises is handed on, and nothing is kept.
            size_of: How many bytes its result takes.
            form: What distinguishes results of the same path.
        """
        key = (path, form, _state(path))
        if key not in self._results:
            result = read(path)
            self._results[key] = (result, size_of(result))
        self._results.move_to_end(key)
        self._forget()
        found: T = self._results[key][0]
        return found

    def clear(self) -> None:
        """Forgets everything. What somebody still uses lives on until they let it go."""
        self._results.clear()

    def _forget(self) -> None:
        while len(self._results) > 1 and self.size > self._limit:
            self._results.popitem(last=False)


def _state(path: Path) -> tuple[tuple[int, int], ...]:
    """What is another when a file is written anew, or one in a folder: a folder's own time tells only of those that come and go."""
    files = [each for each in sorted(path.rglob("*")) if each.is_file()] if path.is_dir() else []
    return tuple((status.st_mtime_ns, status.st_size) for status in (each.stat() for each in (path, *files)))
