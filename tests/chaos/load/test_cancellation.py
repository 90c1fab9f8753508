"""RunPod cancels one of several jobs: that one ends, whatever it is doing, and the others are unaffected."""

from __future__ import annotations

import threading
from collections.abc import Callable
from io import BytesIO

import pytest
from PIL import Image

from playground.callback_receiver import CallbackReceiver, ReceivedCallback
from tests.chaos.load.harness import TIMEOUT, Job, LoadHarness
from tests.doubles.image_server import Handler
from tests.doubles.jobs import sdxl_job
from tests.shared.serverless.conftest import SECRET


def cancel_among_others(
    harness: LoadHarness,
    job: Job,
    wait: Callable[[], object],
    release: Callable[[], object] = lambda: None,
    prepare: Callable[[], object] = lambda: None,
) -> None:
    """Cancels a job while three others run, and asserts that these make the same files as alone.

    Args:
        wait: Returns when the job has reached the point at which it is cancelled.
        release: Called when the others have completed.
        prepare: Called before the jobs are submitted.
    """
    job_id = job["id"]
    others = [sdxl_job(f"{job_id}-other-{number}", seed=100 + number, num_images=3) for number in range(3)]
    expected = [harness.hashes_alone(other) for other in others]
    prepare()
    harness.submit(job, *others[:2])
    wait()
    harness.runpod_api.stop(job_id)
    harness.submit(*others[2:])
    assert [harness.file_hashes(harness.output(other["id"])) for other in others] == expected
    release()
    harness.runpod_api.wait_for(lambda: bool(harness.received_callbacks(job_id)) or harness.runpod_api.results(job_id) != [], TIMEOUT)


def assert_cancelled(harness: LoadHarness, job_id: str) -> None:
    (message,) = harness.received_callbacks(job_id)
    assert (message.payload["status"], message.payload["metadata"]["error_code"]) == ("failed", "CANCELLED")
    assert harness.runpod_api.results(job_id) == []


@pytest.mark.slow
def test_cancel_while_waiting_for_the_gpu(harness: LoadHarness) -> None:
    def occupy_the_gpu() -> None:
        harness.submit(sdxl_job("busy", "slowly", steps=50))
        harness.wait_for_step("busy")

    cancel_among_others(harness, sdxl_job("queued"), lambda: harness.wait_for_logged_step("queued", "validate"), prepare=occupy_the_gpu)
    assert_cancelled(harness, "queued")
    assert harness.steps("queued") == []
    assert harness.output("busy")["status"] == "completed"


def test_cancel_while_fetching_a_reference(harness: LoadHarness) -> None:
    requested, released = threading.Event(), threading.Event()
    content = BytesIO()
    Image.new("RGB", (64, 64), "red").save(content, "PNG")

    def serve_slowly(handler: Handler) -> None:
        requested.set()
        released.wait(TIMEOUT)
        handler.send_head(200, {"Content-Length": str(len(content.getvalue()))})
        handler.wfile.write(content.getvalue())

    url = harness.storage.serve("/slow.png", serve_slowly)
    cancel_among_others(harness, sdxl_job("fetching", image=url), lambda: _assert_set(requested), released.set)
    assert_cancelled(harness, "fetching")
    assert harness.steps("fetching") == []


def test_cancel_while_generating(harness: LoadHarness) -> None:
    cancel_among_others(harness, sdxl_job("generating", "endlessly"), lambda: harness.wait_for_step("generating"))
    assert_cancelled(harness, "generating")


def test_cancel_while_uploading(harness: LoadHarness) -> None:
    harness.uploads.hold("uploading")
    cancel_among_others(
        harness, sdxl_job("uploading", num_images=3), lambda: harness.uploads.wait_for("uploading"), harness.uploads.release
    )
    assert_cancelled(harness, "uploading")


@pytest.mark.slow
def test_cancel_during_the_final_callback_comes_too_late(harness: LoadHarness) -> None:
    requested, released = threading.Event(), threading.Event()

    def respond_slowly(_message: ReceivedCallback) -> None:
        requested.set()
        released.wait(TIMEOUT)

    with CallbackReceiver(SECRET, on_callback=respond_slowly) as receiver:
        harness.job_receivers.append(receiver)
        job = sdxl_job("completed")
        job["input"]["callback_url"] = receiver.url
        cancel_among_others(harness, job, lambda: _assert_set(requested), released.set)
        assert harness.output("completed")["status"] == "completed"
        (message,) = harness.received_callbacks("completed")
        assert message.payload == harness.output("completed")


def _assert_set(event: threading.Event) -> None:
    assert event.wait(TIMEOUT)
