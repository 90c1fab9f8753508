"""A factory of jobs in RunPod's format."""

from __future__ import annotations

import hashlib
from typing import Any

PROMPT_CANARY = "canary-prompt-heron-over-the-bay"
"""Part of every prompt; must not occur in logs or responses of a worker."""


def webhook_id(job_id: str, status: str, *, user_id: str = "user-1", runpod_id: str | None = None) -> str:
    """Returns the `webhook-id` of the contract, by default of a job from `sdxl_job`."""
    event = f"{user_id}/{job_id}/{job_id if runpod_id is None else runpod_id}/{status}"
    return "msg_" + hashlib.sha256(event.encode()).hexdigest()[:32]


def sdxl_job(job_id: str, behavior: str = "paint", **config: Any) -> dict[str, Any]:
    """Returns an SDXL job: one image of 64 × 64 with 10 steps, unless overridden by `config`."""
    settings = {"resolution": "64x64", "steps": 10, "seed": 7} | config
    request = {"id": job_id, "user_id": "user-1", "type": "sdxl_image_fast", "prompt": f"{behavior} {PROMPT_CANARY}", "config": settings}
    return {"id": job_id, "input": request}
