"""Faults of repeated and late deliveries, and of a project that changes while workers live."""

from __future__ import annotations

from typing import Any

from tests.chaos.fault_injection.harness import SERVICE_KEY, Harness, sdxl
from tests.chaos.fault_injection.registry import fault
from tests.doubles.fake_storage import fails_with


def seeds(payload: dict[str, Any]) -> list[int]:
    """Returns the seed of each asset."""
    return [asset["generation_seed"] for asset in payload["assets"]]


def callbacks(harness: Harness, job_id: str) -> list[dict[str, Any]]:
    """Returns the payloads of a job's callbacks, in order."""
    return [message.payload for message in harness.receiver.messages if message.payload["job_id"] == job_id]


def error(payload: dict[str, Any]) -> tuple[str, bool]:
    """Returns the code of a failed job, and whether it may be retried."""
    return payload["metadata"]["error_code"], payload["metadata"]["retryable"]


@fault("F41", "A job without a seed that is delivered twice at once, and to another worker", "one set of images and seeds in all payloads")
def _(harness: Harness) -> None:
    job, worker = sdxl("F41", num_images=3, seed=None), harness.worker()
    first = harness.run_job(job)
    stored = {key: found.content for key, found in harness.storage.objects.items() if "/F41/" in key}
    for _ in range(2):
        worker.runpod_api.submit(job)
    worker.runpod_api.wait_for(lambda: len(worker.runpod_api.results("F41")) == 3)
    with harness.dedicated_worker() as other:
        payloads = [body["output"] for body in worker.runpod_api.results("F41")] + [other.run_job(job)]
    assert len(set(seeds(first))) == 3
    assert [seeds(payload) for payload in payloads] == [seeds(first)] * 4
    assert [seeds(payload) for payload in callbacks(harness, "F41")] == [seeds(first)] * 4
    assert {key: found.content for key, found in harness.storage.objects.items() if "/F41/" in key} == stored


@fault(
    "F42",
    "A result that waits in an outbox while another worker completes the job, with another seed, format and number of images",
    "the newer result stays, alone; the late one is dropped without a callback",
)
def _(harness: Harness) -> None:
    volume = str(harness.folder / "another volume")
    with harness.dedicated_worker("stub", OUTBOX_DIR=volume) as worker:
        harness.storage.outage = fails_with(503)
        late = worker.run_job(sdxl("F42", prompt="a heron", num_images=3, seed=1))
        assert late["metadata"].get("assets_pending")
        harness.storage.recover()
    newer = harness.run_job(sdxl("F42", seed=2, output_format="webp"))
    names = {key: found.content for key, found in harness.storage.objects.items() if "/F42/" in key}
    assert harness.redeliver(OUTBOX_DIR=volume) == 0
    assert {key: found.content for key, found in harness.storage.objects.items() if "/F42/" in key} == names
    assert set(names) == {key for asset in newer["assets"] for key in (asset["url"], asset["thumbnail_url"])}
    assert [payload["status"] for payload in callbacks(harness, "F42")] == ["failed", "completed"]


@fault(
    "F43",
    "The service key is rotated while a worker lives",
    "one job is generated in vain and kept; further ones are refused before their work; a worker with the new key delivers and completes",
)
def _(harness: Harness) -> None:
    new = "sb_secret_rotated_0123456789"
    harness.run_job(sdxl("F43-before"))
    harness.storage.key = new
    try:
        kept = harness.run_job(sdxl("F43-kept"))
        assert error(kept) == ("UPLOAD_ERROR", False)
        assert kept["metadata"]["assets_pending"]
        for number in range(2):
            assert error(harness.run_job(sdxl(f"F43-{number}"), rejected=True)) == ("UPLOAD_ERROR", False)
        with harness.dedicated_worker("stub", SUPABASE_SERVICE_ROLE_KEY=new) as worker:
            assert worker.run_job(sdxl("F43-after", prompt="a heron"))["status"] == "completed"
        assert harness.redeliver(SUPABASE_SERVICE_ROLE_KEY=new) == 0
    finally:
        harness.storage.key = SERVICE_KEY
    assert callbacks(harness, "F43-kept")[-1]["status"] == "completed"
    assert harness.run_job(sdxl("F43-0"))["status"] == "completed"


@fault(
    "F44",
    "A bucket that loses an image type while a worker lives, and allows it again",
    "one job is generated in vain and kept; jobs of that type are refused before their work, others complete",
)
def _(harness: Harness) -> None:
    harness.run_job(sdxl("F44-before"))
    harness.storage.mime_types = ["image/webp", "image/jpeg"]
    try:
        kept = harness.run_job(sdxl("F44-kept"))
        assert error(kept) == ("UPLOAD_ERROR", False)
        assert error(harness.run_job(sdxl("F44-png"), rejected=True)) == ("UPLOAD_ERROR", False)
        assert harness.run_job(sdxl("F44-webp", output_format="webp"))["status"] == "completed"
        assert error(harness.run_job(sdxl("F44-again"), rejected=True)) == ("UPLOAD_ERROR", False)
    finally:
        harness.storage.mime_types = None
    assert harness.run_job(sdxl("F44-png"))["status"] == "completed"
    harness.wait_until_delivered("F44-kept")  # which the success has triggered
    assert callbacks(harness, "F44-kept")[-1]["status"] == "completed"
