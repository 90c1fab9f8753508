"""An incomplete file whose parts arrive in parallel, and the record of what has arrived, which survives the process.

`model.safetensors.0123456789ab.partial` has its full size from the start. The record beside it, `….parts`, has eight bytes for each part:
how many of its bytes have arrived. They are counted after they were written, so that a killed process leaves no count that is too high.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

PART_BYTES = 64 * 2**20
"""The size of a part: large enough that its request costs little, small enough that all connections are busy until the end."""

_COUNT = 8


class PartialFile:
    """The parts of one incomplete file. Different threads may write different parts.

    Args:
        data: The descriptor of the file.
        record: The descriptor of the record.
        size: The complete file's, in bytes.
        part_bytes: The size of all parts but the last.
    """

    def __init__(self, data: int, record: int, size: int, part_bytes: int) -> None:
        self._data, self._record = data, record
        self._starts = range(0, max(size, 1), part_bytes)
        self._ends = [min(start + part_bytes, size) for start in self._starts]
        counts = os.pread(record, _COUNT * len(self._ends), 0)
        self._received = _valid_counts(counts, self._sizes)

    @classmethod
    @contextmanager
    def open(cls, path: Path, size: int, part_bytes: int = PART_BYTES) -> Iterator[Self]:
        """Opens an incomplete file, or makes it.

        Args:
            path: The incomplete file.
            size: The complete file's, in bytes.
            part_bytes: The size of all parts but the last. What was received in parts of another size is received again.

        Raises:
            OSError: The files cannot be written.
        """
        record_path = _record_path(path)
        count = len(range(0, max(size, 1), part_bytes))
        if not path.exists() or not record_path.exists() or record_path.stat().st_size != _COUNT * count:
            discard(path)
        data, record = (os.open(each, os.O_RDWR | os.O_CREAT, 0o644) for each in (path, record_path))
        try:
            os.ftruncate(data, size)
            os.ftruncate(record, _COUNT * count)
            yield cls(data, record, size, part_bytes)
        finally:
            os.close(data)
            os.close(record)

    @property
    def incomplete(self) -> list[int]:
        """The parts that lack bytes."""
        return [part for part, size in enumerate(self._sizes) if self._received[part] < size]

    @property
    def count(self) -> int:
        """How many parts there are, at least one."""
        return len(self._ends)

    @property
    def received(self) -> int:
        """The bytes of all parts that have arrived."""
        return sum(self._received)

    def missing(self, part: int) -> tuple[int, int]:
        """The first byte of a part that has not arrived, and the end of the part."""
        return self._starts[part] + self._received[part], self._ends[part]

    def write(self, part: int, chunk: bytes) -> None:
        """Writes the next bytes of a part.

        Raises:
            ValueError: The part has fewer bytes left.
            OSError: They cannot be written.
        """
        position, end = self.missing(part)
        if position + len(chunk) > end:
            raise ValueError("more bytes than the part has")
        rest = memoryview(chunk)
        while rest:
            written = os.pwrite(self._data, rest, position)
            rest, position = rest[written:], position + written
        self._count(part, self._received[part] + len(chunk))

    def restart(self, part: int) -> int:
        """Forgets what has arrived of a part. Returns how many bytes that was."""
        forgotten = self._received[part]
        self._count(part, 0)
        return forgotten

    def _count(self, part: int, received: int) -> None:
        self._received[part] = received
        os.pwrite(self._record, received.to_bytes(_COUNT, "little"), _COUNT * part)

    @property
    def _sizes(self) -> list[int]:
        return [end - start for start, end in zip(self._starts, self._ends, strict=True)]


def received_bytes(path: Path) -> int:
    """Returns how many bytes of an incomplete file have arrived; 0 without one."""
    try:
        counts = _record_path(path).read_bytes() if path.exists() else b""
    except OSError:
        return 0
    return sum(int.from_bytes(counts[at : at + _COUNT], "little") for at in range(0, len(counts), _COUNT))


def discard(path: Path) -> None:
    """Deletes an incomplete file and its record."""
    for each in (path, _record_path(path)):
        each.unlink(missing_ok=True)


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.parts")


def _valid_counts(record: bytes, sizes: list[int]) -> list[int]:
    counts = [int.from_bytes(record[_COUNT * part : _COUNT * (part + 1)], "little") for part in range(len(sizes))]
    return [count if count <= size else 0 for count, size in zip(counts, sizes, strict=True)]
