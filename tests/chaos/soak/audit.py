"""What has become of the jobs, when all is over: told by storage and the receiver alone, whatever was seen on the way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.chaos.faults.payloads import files_of, is_whole
from tests.chaos.faults.world import World

_FINAL = {"completed", "failed"}


def lost(world: World, job_ids: Iterable[str]) -> dict[str, str]:
    """The jobs that came to nothing, and how: nobody was told their end, or something that a payload names is not there.

    Args:
        world: In which every fault is over and everything that waited was delivered.
        job_ids: All jobs that were handed out.
    """
    told: dict[str, list[dict[str, Any]]] = {}
    for payload in world.inbox.payloads:
        told.setdefault(payload["job_id"], []).append(payload)
    ends = {job_id: [payload for payload in told.get(job_id, []) if payload["status"] in _FINAL] for job_id in job_ids}
    return {job_id: reason for job_id, payloads in ends.items() if (reason := _missing(world, payloads))}


def _missing(world: World, payloads: list[dict[str, Any]]) -> str:
    if not payloads:
        return "nobody was told how it ended"
    completed = [payload for payload in payloads if payload["status"] == "completed"]
    promised = any(payload["metadata"].get("assets_pending") for payload in payloads)
    if promised and not completed:
        return "its files were to be delivered later, and were not"
    gone = [key for payload in completed for key, size in files_of(payload) if not is_whole(world, key, size)]
    return f"{gone[0]} is not stored as it should be" if gone else ""
