"""The lock file of downloaded weights: the files that belong to them, with sizes and SHA-256 hashes.

In a folder it is `weights.lock.json`; for a single file such as `sdxl.safetensors` it is `sdxl.weights.lock.json` in the same folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

NAME = "weights.lock.json"


@dataclass(frozen=True, slots=True)
class LockedFile:
    """One locked file.

    Attributes:
        path: Relative to the lock's folder, with `/`.
        bytes: The size.
        sha256: 64 hexadecimal digits.
    """

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Lock:
    """The contents of a lock file.

    Attributes:
        source: The repository on the hub, `owner/name`, or the URL of an operator's own checkpoint, without a query string.
        revision: The commit, 40 hexadecimal digits; None for an operator's own checkpoint.
        licence: As stated by the catalogue or the operator.
        files: All files, sorted by path.
    """

    source: str
    revision: str | None
    licence: str
    files: tuple[LockedFile, ...]

    @property
    def bytes(self) -> int:
        """The total size."""
        return sum(file.bytes for file in self.files)


def lock_path(weights: Path) -> Path:
    """Returns the path of the lock file.

    Args:
        weights: A folder or a `.safetensors` file. It need not exist.
    """
    return weights.with_name(f"{weights.stem}.{NAME}") if weights.suffix == ".safetensors" else weights / NAME


def write_lock(weights: Path, lock: Lock) -> None:
    """Writes the lock file atomically."""
    path = lock_path(weights)
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(asdict(lock), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(new, path)


def read_lock(weights: Path) -> Lock | None:
    """Reads the lock file.

    Returns:
        None if there is none.

    Raises:
        ValueError: The file is not a lock, or names a file outside its folder.
    """
    path = lock_path(weights)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
        files = tuple(_locked_file(entry) for entry in content["files"])
        return Lock(str(content["source"]), content["revision"], str(content["licence"]), files)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name} is not a valid lock file ({error})") from None


def differences(weights: Path, lock: Lock, *, hashes: bool) -> list[str]:
    """Compares weights with their lock.

    Args:
        weights: Their folder, or the single file.
        lock: The expected contents.
        hashes: Whether to hash every file, at 1 to 2 GB per second on a fast disk. False compares sizes only.

    Returns:
        One clause per differing file, such as `config.json is missing`; empty if they are as locked.
    """
    return list(_differing(lock_path(weights).parent, lock.files, hashes=hashes))


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_path_traversal(path: str) -> bool:
    """Returns whether a supposedly relative path, with `/`, leads out of its folder."""
    return PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts


def _differing(folder: Path, files: Iterable[LockedFile], *, hashes: bool) -> Iterable[str]:
    for file in files:
        path = folder / file.path
        if not path.is_file():
            yield f"{file.path} is missing"
        elif (size := path.stat().st_size) != file.bytes:
            yield f"{file.path} has {size:,} bytes instead of {file.bytes:,}"
        elif hashes and sha256_of(path) != file.sha256:
            yield f"{file.path} has another SHA-256 than locked"


def _locked_file(entry: dict[str, Any]) -> LockedFile:
    file = LockedFile(str(entry["path"]), int(entry["bytes"]), str(entry["sha256"]))
    if is_path_traversal(file.path):
        raise ValueError("a path leaves the folder")
    return file
