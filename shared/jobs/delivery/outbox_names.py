"""The names of outbox entries: `{digest of the job}.{nanoseconds of the commit}.{MAC}`, and their states.

A name that ends in `.part` is an entry that is not committed or is being deleted, one that ends in `.rejected` an entry that was set aside.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from pathlib import Path

from shared.contract.request import Identity

PART = ".part"
REJECTED = ".rejected"

# Anything else in the folder belongs to the operator and is not touched. Entries of version 0.1 ended in 8 digits instead of a MAC.
_NAME = re.compile(r"[0-9a-f]{32}\.[0-9]{1,20}\.[0-9a-f]{8,64}")
_REJECTED_NAME = re.compile(_NAME.pattern + r"\.[0-9a-f]{8}" + re.escape(REJECTED))


def is_entry(name: str) -> bool:
    """Whether a name is that of a committed entry."""
    return _NAME.fullmatch(name) is not None


def is_rejected(name: str) -> bool:
    """Whether a name is that of an entry that was set aside."""
    return _REJECTED_NAME.fullmatch(name) is not None


def digest_of(identity: Identity) -> str:
    """Returns the part of a name that stands for a job: RunPod's ids may contain any character."""
    return hashlib.sha256(f"{identity.user_id}\n{identity.job_id}".encode()).hexdigest()[:32]


def partial_name(digest: str) -> str:
    """Returns a new name for an entry that is not committed."""
    return f"{digest}.{time.time_ns()}.{secrets.token_hex(4)}{PART}"


def authenticated_name(part: Path) -> str:
    """Returns the part of a name that the MAC covers: the job and the time of the commit, by which a slow result is newer than others."""
    return f"{job_of(part)}.{time.time_ns()}"


def rejected_name(name: str) -> str:
    """Returns a new name for an entry that is set aside."""
    return f"{name}.{secrets.token_hex(4)}{REJECTED}"


def job_of(path: Path) -> str:
    """Returns the digest of an entry's job."""
    return path.name.partition(".")[0]


def created_at(path: Path) -> int:
    """Returns when an entry was committed, in nanoseconds since 1970."""
    return int(path.name.split(".")[1])
