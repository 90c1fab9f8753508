"""Which published commit weights are, where that is known."""

from __future__ import annotations

import re
from pathlib import Path

from shared.weights.lock import read_lock

_COMMIT = re.compile(r"[0-9a-f]{40}")


def revision_of(folder: Path) -> str | None:
    """Says the commit that a folder of weights was published as.

    Known of a folder with a lock, and of a snapshot in a Hugging Face cache, which is named by it.

    Returns:
        40 hexadecimal digits, or None where nobody has written it down.
    """
    try:
        lock = read_lock(folder)
    except ValueError:
        return None  # whoever looks after the weights is told so elsewhere
    if lock is not None:
        return lock.revision
    resolved = folder.resolve()
    return resolved.name if resolved.parent.name == "snapshots" and _COMMIT.fullmatch(resolved.name) else None
