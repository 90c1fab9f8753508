"""The lock beside weights: which files belong to them, how large they are, and what they hash to. Written when they are downloaded.

A folder has it inside, as `weights.lock.json`; a single file has it beside it, as `sdxl.weights.lock.json` beside `sdxl.safetensors`.
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
    """One file.

    Attributes:
        path: Relative to the lock's folder, with `/`.
        bytes: Its size.
        sha256: 64 hexadecimal digits.
    """

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Lock:
    """What was downloaded.

    Attributes:
        source: The repository on the hub, `owner/name`, or where an operator's own checkpoint came from, without a query string.
        revision: The commit, 40 hexadecimal digits; None for an operator's own checkpoint.
        licence: As the catalogue, or the operator, states it.
        files: All files, sorted by path.
    """

    source: str
    revision: str | None
    licence: str
    files: tuple[LockedFile, ...]

    @property
    def bytes(self) -> int:
        """What all files take together."""
        return sum(file.bytes for file in self.files)


def lock_path(weights: Path) -> Path:
    """Where the lock of weights lies.

    Args:
        weights: Their folder, or one `.safetensors` file. It need not exist.
    """
    return weights.with_name(f"{weights.stem}.{NAME}") if weights.suffix == ".safetensors" else weights / NAME


def write_lock(weights: Path, lock: Lock) -> None:
    """Writes the lock of weights, at once and complete."""
    path = lock_path(weights)
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(asdict(lock), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(new, path)


def read_lock(weights: Path) -> Lock | None:
    """Reads the lock of weights.

    Returns:
        None where there is none, as beside weights that were not downloaded with it.

    Raises:
        ValueError: What is there is no lock, or names a file outside of its folder.
    """
    path = lock_path(weights)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
        files = tuple(_locked_file(entry) for entry in content["files"])
        return Lock(str(content["source"]), content["revision"], str(content["licence"]), files)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name} is not a lock of weights ({error}). Delete it, and download the weights again.") from None


def differences(weights: Path, lock: Lock, *, hashes: bool) -> list[str]:
    """Says where weights differ from their lock.

    Args:
        weights: Their folder, or the single file.
        lock: What they should be.
        hashes: Whether to read every file and compare its SHA-256, which takes about a second for 1 to 2 GB that lie on a fast disk.
            False compares sizes only.

    Returns:
        One sentence's end for each file, such as `config.json is missing`; empty when they are as locked.
    """
    return list(_differing(lock_path(weights).parent, lock.files, hashes=hashes))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def leaves_its_folder(path: str) -> bool:
    """Whether a path with `/` that is said to be relative names something outside of its folder."""
    return PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts


def _differing(folder: Path, files: Iterable[LockedFile], *, hashes: bool) -> Iterable[str]:
    for file in files:
        path = folder / file.path
        if not path.is_file():
            yield f"{file.path} is missing"
        elif (size := path.stat().st_size) != file.bytes:
            yield f"{file.path} has {size:,} bytes instead of {file.bytes:,}"
        elif hashes and sha256_of(path) != file.sha256:
            yield f"{file.path} does not have the SHA-256 of its lock"


def _locked_file(entry: dict[str, Any]) -> LockedFile:
    file = LockedFile(str(entry["path"]), int(entry["bytes"]), str(entry["sha256"]))
    if leaves_its_folder(file.path):
        raise ValueError("a path leaves the folder")
    return file
