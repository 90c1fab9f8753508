"""RunPod's own webhook: the status object of a job that has ended is posted to the URL that its request names, without a signature."""

from __future__ import annotations

import httpx
import stamina

from playground.gateway import limits
from playground.gateway.jobs import Job


async def call_webhook(job: Job) -> bool:
    """Posts a job's status object, its `input` and its `webhook` to that URL. Returns whether the receiver answered with status 200."""
    url = job.request.get("webhook")
    if not isinstance(url, str):
        return False
    body = job.describe() | {"input": job.request["input"], "webhook": url}
    attempts = stamina.retry_context(
        (httpx.HTTPError, httpx.InvalidURL),
        attempts=limits.WEBHOOK_ATTEMPTS,
        wait_initial=limits.WEBHOOK_INTERVAL,
        wait_jitter=0,
        wait_exp_base=1,
    )
    try:
        async with httpx.AsyncClient(timeout=limits.WEBHOOK_INTERVAL) as client:
            async for attempt in attempts:
                with attempt:
                    (await client.post(url, json=body)).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return True
