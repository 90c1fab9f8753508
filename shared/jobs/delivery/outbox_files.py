"""Files of a folder that others can write to: opened relative to a descriptor, without following links, and only regular ones.

The outbox lies on a network volume. Anyone who mounts the volume may have put anything there under any name: a link to a file of this
machine, a FIFO, whose reader would wait for ever, a directory, or a file of any size.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

_CHUNK = 1 << 20
# ELOOP, ENOTDIR: a link where a file or a directory must be; ENXIO: a socket or a device.
_FOREIGN = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO})


class EntryRejected(Exception):
    """An outbox entry is not one that this deployment has written, or is damaged. The text says why, and names no path outside of it."""


@contextmanager
def open_directory(name: Path | str, parent: int | None = None) -> Iterator[int]:
    """Opens a directory, relative to `parent` without following a link.

    Yields:
        Its descriptor.

    Raises:
        EntryRejected: It is no directory.
        FileNotFoundError: There is nothing of this name.
    """
    with _rejections(f"{Path(name).name} is not a directory"):
        handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | (0 if parent is None else os.O_NOFOLLOW), dir_fd=parent)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def open_regular(name: str, folder: int) -> Iterator[BufferedReader]:
    """Opens a regular file of a folder for reading. Neither follows a link nor waits for the writer of a FIFO.

    Raises:
        EntryRejected: It is no regular file.
        FileNotFoundError: There is nothing of this name.
    """
    with _rejections(f"{name} is not a regular file"):
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise EntryRejected(f"{name} is not a regular file")
    with os.fdopen(handle, "rb") as file:
        yield file


def read_bounded(name: str, folder: int, limit: int) -> bytes:
    """Reads a regular file.

    Raises:
        EntryRejected: It is no regular file, or has more than `limit` bytes.
    """
    with open_regular(name, folder) as file:
        content = b"" if os.fstat(file.fileno()).st_size > limit else file.read(limit + 1)
        if not content or len(content) > limit:
            raise EntryRejected(f"{name} is empty or has more than {limit} bytes")
    return content


def check_size(name: str, folder: int, size: int) -> None:
    """Compares the size of a regular file.

    Raises:
        EntryRejected: It is no regular file, or has another size.
    """
    with open_regular(name, folder) as file:
        _check_size(file, name, size)


def sha256_of(name: str, folder: int, size: int) -> str:
    """Returns the SHA-256 of a regular file, hexadecimal.

    Raises:
        EntryRejected: It is no regular file, or has another size, which is looked at first.
    """
    with open_regular(name, folder) as file:
        _check_size(file, name, size)
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def private_copy(name: str, folder: int, size: int, sha256: str) -> Iterator[Path]:
    """Copies a regular file into a temporary one that only this process knows, and hashes the copied bytes.

    The file itself could change between the comparison of its hash and its upload.

    Raises:
        EntryRejected: It is no regular file, or has another size or content.
    """
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(prefix="outbox-") as copy:
        with open_regular(name, folder) as file:
            _check_size(file, name, size)
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                copy.write(chunk)
        copy.flush()
        if digest.hexdigest() != sha256:
            raise EntryRejected(f"{name} has another content")
        yield Path(copy.name)


def delete(path: Path) -> None:
    """Deletes a directory or whatever else has this name, without following a link. Ignores what cannot be deleted."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def size_of(folder: Path, *, without: str) -> int:
    """Returns the bytes of all files in a folder, from which other jobs and workers may be deleting. Links are not followed.

    Args:
        folder: The folder.
        without: Folders in it whose names have this ending are left out.
    """
    total = 0
    for parent, folders, names in os.walk(folder):  # which skips folders that have disappeared
        folders[:] = [name for name in folders if not name.endswith(without)]
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(parent) / name).lstat().st_size
    return total


def _check_size(file: BufferedReader, name: str, size: int) -> None:
    found = os.fstat(file.fileno()).st_size
    if found != size:
        raise EntryRejected(f"{name} has {found} bytes instead of {size}")


@contextmanager
def _rejections(reason: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FOREIGN:
            raise EntryRejected(reason) from None
        raise
