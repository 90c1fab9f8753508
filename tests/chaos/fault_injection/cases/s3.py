"""Faults of S3-compatible storage: those of Supabase Storage that apply, in front of a real server."""

from __future__ import annotations

from typing import Any

from tests.chaos.fault_injection.harness import Harness, sdxl
from tests.chaos.fault_injection.registry import fault
from tests.chaos.fault_injection.worker_handle import WorkerHandle
from tests.doubles.s3_server import (
    Fault,
    cuts_the_upload,
    damages_the_body,
    drops_the_response,
    fails_with,
    hangs,
    responds,
    truncates_the_response,
)

TRANSIENT: tuple[Fault, ...] = (
    responds(429),
    fails_with(500, "InternalError"),
    responds(502, b"<html>Bad gateway</html>"),
    fails_with(503, "SlowDown"),
    fails_with(400, "RequestTimeout"),
    damages_the_body,
    cuts_the_upload,
    drops_the_response,
    truncates_the_response,
    responds(200, b"<html>Welcome</html>"),
)
REFUSALS = {"InvalidAccessKeyId": 403, "ExpiredToken": 400, "AccessDenied": 403, "NoSuchBucket": 404}


def error(payload: dict[str, Any]) -> tuple[str | None, bool | None]:
    """Returns the code of a failed job, and whether it may be retried."""
    return payload["metadata"].get("error_code"), payload["metadata"].get("retryable")


@fault(
    "F45",
    "429, 500, 502 as an HTML page, SlowDown, RequestTimeout; a damaged or cut upload; a response that is lost, truncated or a page",
    "retried; one intact object",
)
def _(harness: Harness) -> None:
    with harness.s3_worker() as worker:
        for index, failure in enumerate(TRANSIENT):
            harness.s3.fail(failure)
            output = worker.run_job(sdxl(f"F45-{index}"))
            assert output["status"] == "completed", output["error_message"]
            assert len([key for key in harness.s3.objects if f"/F45-{index}/" in key]) == 2


@fault(
    "F46",
    "No response; an outage during a whole job; an unknown, expired or forbidden key, a lost bucket: at the start and during a job",
    "the worker does not start; the images are kept and delivered later; the next job is refused before its work",
)
def _(harness: Harness) -> None:
    for variable, word in (("BUCKET_SECRET_ACCESS_KEY", "secret access key"), ("BUCKET_NAME", "bucket does not exist")):
        with harness.s3_worker(**{variable: "wrong"}) as broken:
            assert broken.process.wait() == 1
            assert broken.runpod_api.takes == []
            assert word in broken.process.log
    with harness.s3_worker() as worker:
        for name, outage in (("hangs", hangs), ("outage", fails_with(503, "SlowDown"))):
            harness.s3.outage = outage
            output = worker.run_job(sdxl(f"F46-{name}"))
            assert error(output) == ("UPLOAD_ERROR", True)
            assert len(output["metadata"]["assets_pending"]) == 2
            harness.s3.recover()
        for code, status in REFUSALS.items():
            refuse(harness, worker, code, status)
    assert {key for key in harness.s3.objects if "/F46-outage/" in key or "/F46-hangs/" in key} == {
        f"user-1/F46-{name}/{file}" for name in ("hangs", "outage") for file in ("0.png", "0.thumb.webp")
    }


def refuse(harness: Harness, worker: WorkerHandle, code: str, status: int) -> None:
    """Runs a job that S3 refuses for good, one that is refused before its work, and one after which the first is delivered."""
    harness.s3.outage = fails_with(status, code)
    output = worker.run_job(sdxl(f"F46-{code}"))
    assert error(output) == ("UPLOAD_ERROR", False)
    assert output["metadata"]["assets_pending"]
    assert error(worker.run_job(sdxl(f"F46-next-{code}"), rejected=True)) == ("UPLOAD_ERROR", False)
    harness.s3.recover()
    assert worker.run_job(sdxl(f"F46-last-{code}"))["status"] == "completed"
    harness.wait_until_delivered(f"F46-{code}")  # a success triggers that
    assert f"user-1/F46-{code}/0.png" in harness.s3.objects
