"""Jobs as RunPod hands them out."""

from __future__ import annotations

from typing import Any

PROMPT_CANARY = "canary-prompt-heron-over-the-bay"
"""In the prompt of every job, and nowhere in what a worker prints or answers."""


def sdxl_job(job_id: str, verb: str = "paint", **config: Any) -> dict[str, Any]:
    """A small SDXL job: one picture of 64 × 64 with 10 steps, unless `config` says otherwise."""
    settings = {"resolution": "64x64", "steps": 10, "seed": 7} | config
    request = {"id": job_id, "user_id": "user-1", "type": "sdxl_image_fast", "prompt": f"{verb} {PROMPT_CANARY}", "config": settings}
    return {"id": job_id, "input": request}
