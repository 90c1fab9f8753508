"""Finds the published commit that a folder of weights was downloaded from."""

from __future__ import annotations

import re
from pathlib import Path

from shared.weights.lock import read_lock

_COMMIT = re.compile(r"[0-9a-f]{40}")


def revision_of(folder: Path) -> str | None:
    """Returns the commit of a folder of weights, from its lock file or from the name of its Hugging Face cache snapshot.

    Returns:
        40 hexadecimal digits, or None if the commit is not recorded.
    """
    try:
        lock = read_lock(folder)
    except ValueError:
        return None  # a damaged lock file is reported where weights are resolved
    if lock is not None:
        return lock.revision
    resolved = folder.resolve()
    return resolved.name if resolved.parent.name == "snapshots" and _COMMIT.fullmatch(resolved.name) else None
