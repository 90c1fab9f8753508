"""Weights are what their lock says: sizes at every start, hashes once per place.

A file that was cut off is noticed when it is loaded. One of which a bit has flipped, or whose end is zeros, is not: it loads, and makes
pictures of noise. Only its hash tells. Hashing takes about a second for each gigabyte, so a stamp beside the lock keeps what was hashed:
the lock, and of each file its size and when it was last changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from shared.settings import SettingsError
from shared.telemetry import logger
from shared.weights.lock import Lock, differences, lock_path, read_lock

_SOME = 3


def verify(name: str, weights: Path) -> None:
    """Compares weights with their lock. Weights that have none, because they were not downloaded with it, pass.

    Args:
        name: What messages call them.
        weights: Their folder, or one `.safetensors` file.

    Raises:
        SettingsError: They differ, or what lies beside them is no lock. Names the files.
    """
    try:
        lock = read_lock(weights)
    except ValueError as error:
        raise SettingsError(f"The weights {name!r}: {error}") from None
    if lock is None:
        logger().info("weights have no lock and are not compared with one", model=name)
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
    """Where it is kept what was hashed."""
    lock = lock_path(weights)
    return lock.with_name(lock.name.replace(".lock.json", ".verified.json"))


def _check(name: str, wrong: list[str]) -> None:
    if wrong:
        more = f" and {len(wrong) - _SOME} more" if len(wrong) > _SOME else ""
        raise SettingsError(
            f"The weights {name!r} are damaged: {'; '.join(wrong[:_SOME])}{more}. Delete what is named and download the weights again."
        )


def _state(weights: Path, lock: Lock) -> dict[str, object]:
    folder = lock_path(weights).parent
    stats = {file.path: (folder / file.path).stat() for file in lock.files}
    # Whole seconds, because layers of an image keep no more.
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
    except OSError as error:  # a volume that is mounted to be read only
        logger().warning("the weights will be hashed again at the next start", reason=error.strerror)
