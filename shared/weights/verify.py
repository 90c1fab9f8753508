"""Verifies weights against their lock: sizes at every start, hashes once per location.

A truncated file fails to load, but one with a flipped bit, or that ends in zeros, loads and generates noise; only its hash shows it.
Hashing takes about a second per gigabyte, so a stamp next to the lock records what was hashed: the lock, and the size and modification time
of each file.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from safetensors import SafetensorError, safe_open

from shared.telemetry import logger
from shared.weights.errors import WeightsError
from shared.weights.file_limits import limit_problem
from shared.weights.lock import Lock, differences, lock_path, read_lock

_MAX_NAMED = 3
_ADVICE = "Delete the named files and download the weights again."


def verify(name: str, weights: Path) -> None:
    """Compares weights with their lock. Of weights without a lock, which this tool did not
    download, only headers and sizes are checked.

    Args:
        name: The weights in messages.
        weights: Their folder, or one `.safetensors` file.

    Raises:
        WeightsError: They differ, or the lock is invalid. Names the files.
    """
    _check_limits(name, weights)
    try:
        lock = read_lock(weights)
    except ValueError as error:
        raise WeightsError(name, str(error), advice=_ADVICE) from None
    if lock is None:
        _check(name, _unreadable(weights))
        logger().info("weights are not verified: they have no lock", model=name)
        return
    _check(name, differences(weights, lock, hashes=False))
    state = _state(weights, lock)
    if _stamped(weights) == state:
        return
    started = time.perf_counter()
    _check(name, differences(weights, lock, hashes=True))
    logger().info("weights hashed", model=name, bytes=lock.bytes, seconds=round(time.perf_counter() - started, 1))
    _stamp(weights, state)


def stamp_path(weights: Path) -> Path:
    """Returns the path of the stamp."""
    lock = lock_path(weights)
    return lock.with_name(lock.name.replace(".lock.json", ".verified.json"))


def _check_limits(name: str, weights: Path) -> None:
    if (problem := limit_problem(weights)) is not None:
        raise WeightsError(name, f"they are not parsed: {problem}", advice=_ADVICE)


def _unreadable(weights: Path) -> list[str]:
    """The `.safetensors` files whose header is damaged, or whose size is not the one that the header tells: truncated downloads."""
    root = weights if weights.is_dir() else weights.parent
    files = sorted(root.rglob("*.safetensors")) if weights.is_dir() else [weights]
    return [f"{path.relative_to(root)} is truncated or damaged" for path in files if path.is_file() and not _is_readable(path)]


def _is_readable(path: Path) -> bool:
    try:
        with safe_open(path, "np"):
            return True
    except (OSError, ValueError, SafetensorError):
        return False


def _check(name: str, wrong: list[str]) -> None:
    if wrong:
        more = f" and {len(wrong) - _MAX_NAMED} more" if len(wrong) > _MAX_NAMED else ""
        raise WeightsError(name, f"they are damaged: {'; '.join(wrong[:_MAX_NAMED])}{more}", advice=_ADVICE)


def _state(weights: Path, lock: Lock) -> dict[str, object]:
    folder = lock_path(weights).parent
    stats = {file.path: (folder / file.path).stat() for file in lock.files}
    # In whole seconds, the resolution of image layers.
    files = {path: [stat.st_size, int(stat.st_mtime)] for path, stat in stats.items()}
    return {"lock": hashlib.sha256(lock_path(weights).read_bytes()).hexdigest(), "files": files}


def _stamped(weights: Path) -> object:
    try:
        return json.loads(stamp_path(weights).read_bytes())
    except (OSError, ValueError):
        return None


def _stamp(weights: Path, state: dict[str, object]) -> None:
    path = stamp_path(weights)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        new.write_text(json.dumps(state), encoding="utf-8")
        new.replace(path)
    except OSError as error:  # a read-only volume
        logger().warning("the weights will be hashed again at the next start", reason=error.strerror)
