"""Finds lost jobs after a soak test, from storage and callbacks alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.chaos.fault_injection.harness import Harness
from tests.chaos.fault_injection.payloads import is_intact, named_files

_FINAL = {"completed", "failed"}


def find_lost_jobs(harness: Harness, job_ids: Iterable[str]) -> dict[str, str]:
    """Returns the jobs whose end was never reported, or whose payload names a file that is not stored intact, with the reason.

    Args:
        harness: All faults are cleared and all pending outbox entries are delivered.
        job_ids: All jobs that were submitted.
    """
    callbacks: dict[str, list[dict[str, Any]]] = {}
    for payload in harness.receiver.payloads:
        callbacks.setdefault(payload["job_id"], []).append(payload)
    final = {job_id: [payload for payload in callbacks.get(job_id, []) if payload["status"] in _FINAL] for job_id in job_ids}
    return {job_id: reason for job_id, payloads in final.items() if (reason := _loss(harness, payloads))}


def _loss(harness: Harness, payloads: list[dict[str, Any]]) -> str:
    if not payloads:
        return "no final callback"
    completed = [payload for payload in payloads if payload["status"] == "completed"]
    pending = any(payload["metadata"].get("assets_pending") for payload in payloads)
    if pending and not completed:
        return "its pending files were never delivered"
    damaged = [key for payload in completed for key, size in named_files(payload) if not is_intact(harness, key, size)]
    return f"{damaged[0]} is not stored intact" if damaged else ""
