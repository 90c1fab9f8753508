"""Faults of object storage."""

from __future__ import annotations

import json

from tests.chaos.fault_injection.harness import Harness, sdxl
from tests.chaos.fault_injection.registry import fault
from tests.doubles.fake_storage import Fault, drops_the_response, fails_with, hangs, responds, truncates_the_response

INCOMPLETE_RESPONSES: tuple[Fault, ...] = (drops_the_response, truncates_the_response, responds(200, b"<html>", "text/html"))
database_stopped = responds(400, json.dumps({"statusCode": "500", "error": "Internal", "message": "Internal Server Error"}).encode())


def complete_despite(number: str, harness: Harness, *faults: Fault) -> None:
    """Asserts that a job completes whose first uploads meet these faults."""
    harness.storage.fail(*faults)
    output = harness.run_job(sdxl(number))
    assert output["status"] == "completed", output["error_message"]


@fault("F31", "429, 500, 502 as an HTML page, 503, 504, 544, and 400 whose body says 503, 423 or 429", "retried by the status of the body")
def _(harness: Harness) -> None:
    for status in (429, 500, 503, 504, 544, 423):
        complete_despite(f"F31-{status}", harness, fails_with(status), fails_with(status))
    for status in (502, 503):
        complete_despite(f"F31-page-{status}", harness, responds(status, b"<html>Bad gateway</html>", "text/html"))


@fault("F32", "An upload whose response is lost, truncated, or an HTML page", "one intact object")
def _(harness: Harness) -> None:
    for index, failure in enumerate(INCOMPLETE_RESPONSES):
        complete_despite(f"F32-{index}", harness, failure)
        assert len([key for key in harness.storage.objects if f"/F32-{index}/" in key]) == 2


@fault(
    "F33",
    "An upload without a response; a MIME type that is rejected before the body is read, on a connection that then hangs",
    "kept in the outbox and delivered later",
)
def _(harness: Harness) -> None:
    harness.run_job(sdxl("F33-before"))  # after which the worker knows what the bucket allows
    harness.storage.outage = hangs
    output = harness.run_job(sdxl("F33-hangs"))
    assert output["metadata"].get("error_code") == "UPLOAD_ERROR"
    harness.storage.recover()
    harness.storage.mime_types = ["image/webp"]
    try:
        rejected = harness.run_job(sdxl("F33-early"))
        assert (rejected["metadata"].get("error_code"), rejected["metadata"].get("retryable")) == ("UPLOAD_ERROR", False)
    finally:
        harness.storage.mime_types = None
    pending = [key for failed in (output, rejected) for key in failed["metadata"].get("assets_pending", [])]
    assert len(pending) == 4
    assert harness.redeliver() == 0
    assert set(pending) <= set(harness.storage.objects)


@fault(
    "F34",
    "A wrong key, a missing bucket, a policy, an object too large, a forbidden MIME type: at the start and during a job",
    "the worker does not start; no retries; the images are kept; the next job is refused before its work",
)
def _(harness: Harness) -> None:
    for variable, value, word in (("SUPABASE_SERVICE_ROLE_KEY", "wrong", "service key"), ("STORAGE_BUCKET", "nowhere", "bucket")):
        with harness.dedicated_worker("stub", **{variable: value}) as worker:
            assert worker.process.wait() == 1
            assert worker.runpod_api.takes == []
            assert word in worker.process.log
    harness.run_job(sdxl("F34-before"))
    for status in (401, 403, 404, 413, 415):
        harness.storage.outage = fails_with(status)
        output = harness.run_job(sdxl(f"F34-{status}"))
        assert (output["metadata"].get("error_code"), output["metadata"].get("retryable")) == ("UPLOAD_ERROR", False)
        # Of this job only: entries of earlier jobs are redelivered meanwhile.
        uploads = [request for request in harness.storage.requests if request[0] == "POST" and f"/F34-{status}/" in request[1]]
        assert 1 <= len(uploads) == len(set(uploads)) <= 2
        assert output["metadata"].get("assets_pending")
        if status != 413:  # which depends on the object
            next_job = harness.run_job(sdxl(f"F34-next-{status}"), rejected=True)
            assert next_job["metadata"].get("error_code") == "UPLOAD_ERROR"
        harness.storage.recover()
        assert harness.run_job(sdxl(f"F34-last-{status}"))["status"] == "completed"
        harness.wait_until_delivered(f"F34-{status}")  # a success triggers that
    assert harness.redeliver() == 0


@fault("F35", "Storage is unavailable during a whole job", "the images are kept in the outbox, then stored, then reported as completed")
def _(harness: Harness) -> None:
    harness.storage.outage = fails_with(503)
    output = harness.run_job(sdxl("F35", num_images=3))
    assert output["metadata"].get("error_code") == "UPLOAD_ERROR"
    pending = output["metadata"].get("assets_pending", [])
    assert len(pending) == 6
    harness.storage.recover()
    assert harness.redeliver() == 0
    assert set(pending) <= set(harness.storage.objects)
    assert harness.receiver.messages[-1].payload["status"] == "completed"


@fault(
    "F36",
    "A database behind storage that is stopped, locked or frozen; storage killed during an upload",
    "retried; the objects that were stored before are intact",
)
def _(harness: Harness) -> None:
    harness.run_job(sdxl("F36"))
    before = dict(harness.storage.objects)
    for failure in (database_stopped, fails_with(544), closes_mid_upload):
        complete_despite("F36", harness, failure)
    assert {key: stored.content for key, stored in before.items()} == {key: harness.storage.objects[key].content for key in before}


def closes_mid_upload(handler: object) -> None:
    """Closes the connection after half of the body."""
    from tests.doubles.fake_storage import Handler

    assert isinstance(handler, Handler)
    handler.rfile.read(int(handler.headers["content-length"]) // 2)
    handler.close_connection = True
    handler.connection.close()
