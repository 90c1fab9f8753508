"""Folders that a command makes at once and complete, and recognises at its next run by a stamp in them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

STAMP = "made.json"


class UnmanagedFolder(Exception):
    """A folder is in the way that holds something else, such as real weights."""


def fingerprint(sources: Iterable[Path], *facts: str, libraries: Iterable[str] = ()) -> str:
    """Says what decides a folder's bytes.

    Args:
        sources: Files of code or data.
        facts: What else decides, such as a seed.
        libraries: Installed distributions; their versions count.
    """
    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{source.name} {source.stat().st_size}\n".encode())
        digest.update(source.read_bytes())
    return " ".join([digest.hexdigest(), *(f"{name}=={version(name)}" for name in libraries), *facts])


def build_folder(target: Path, recipe: str, write: Callable[[Path], None]) -> bool:
    """Makes a folder unless it is current.

    It appears under its name at once and complete, so that a second run beside this one, or one that was stopped, leaves nothing
    half-made.

    Args:
        target: Where it goes.
        recipe: What decides its bytes.
        write: Fills an empty folder.

    Returns:
        Whether it was made now.

    Raises:
        UnmanagedFolder: It is not current and holds files that were not made here.
    """
    if is_up_to_date(target, recipe):
        return False
    _refuse_foreign(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        write(new)
        _stamp(new, recipe)
        if target.exists():
            os.rename(target, old)
        _put_in_place(new, target, recipe)
    return True


def is_up_to_date(target: Path, recipe: str) -> bool:
    """Whether a folder was made by this recipe, and its files still have their sizes."""
    try:
        stamp = json.loads((target / STAMP).read_text(encoding="utf-8"))
        sizes = {name: (target / name).stat().st_size for name in stamp["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(stamp["recipe"] == recipe and stamp["files"] == sizes)


def _refuse_foreign(target: Path) -> None:
    if not target.exists():
        return
    try:
        ours = {STAMP, *json.loads((target / STAMP).read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise UnmanagedFolder(f"{target} was not made by this program and is left alone. Move it away, or name another folder.") from None
    foreign = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()} - ours
    if foreign:
        raise UnmanagedFolder(
            f"{target} is out of date, but {min(foreign)} in it was not made by this program, so nothing is changed. "
            "Move that file away and run this again."
        )


def _put_in_place(new: Path, target: Path, recipe: str) -> None:
    try:
        os.rename(new, target)
    except OSError:
        # Another run was quicker; what it made is the same.
        if not is_up_to_date(target, recipe):
            raise


def make_world_readable(folder: Path) -> list[Path]:
    """Lets everybody read a folder's files. Weights are written for their owner alone, but a worker may run as somebody else.

    Returns:
        The files, sorted.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        path.chmod(0o644)
    return files


def _stamp(folder: Path, recipe: str) -> None:
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in make_world_readable(folder)}
    (folder / STAMP).write_text(json.dumps({"recipe": recipe, "files": sizes}, indent=2) + "\n", encoding="utf-8")
