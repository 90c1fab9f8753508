"""The invariants that hold after every injected fault."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence

from shared.contract.callback import FailedPayload
from shared.network import is_public
from tests.chaos.fault_injection.harness import Harness, sdxl, wan
from tests.chaos.fault_injection.worker_handle import JobResult, WorkerHandle

INVARIANTS = {
    "Answered": "RunPod receives strict JSON with the job's id: `completed`, or `failed` with a documented code and a one-line message.",
    "Ended once": "The receiver is called with the payload that RunPod receives, under one `webhook-id`, or the payload is in the outbox.",
    "Stored": "Every file that the payload names is stored byte for byte, and nothing is stored outside `{user_id}/{job_id}/`.",
    "Alive": "The worker completes the next job, or has exited by itself with a code other than 0.",
    "No secrets": "No key, token or prompt and no traceback is in the log, a response, a callback or the outbox.",
    "No other connections": "The worker connects to RunPod, storage, the receiver and public reference hosts only.",
    "No wasted work": "A rejected job reaches no network of the model; every other job ends by its deadline.",
    "No leftovers": "No temporary file, open file or memory remains.",
}
"""Names and descriptions, as `docs/reliability.md` states them."""

_CANARIES = ("canary", "Traceback")  # every secret of these tests contains the first
_FILES_TOLERANCE = 6  # thread pools keep some
_MEMORY_TOLERANCE = 200 * 2**20


class Baseline:
    """Resources and results of a worker before a fault."""

    def __init__(self, worker: WorkerHandle) -> None:
        self.worker = worker
        self.open_files = worker.open_files
        self.memory = worker.memory()
        self.results = len(worker.results)


def check_invariants(harness: Harness, baselines: Sequence[Baseline]) -> None:
    """Asserts the invariants for all jobs since `baselines`, and for all jobs of dedicated workers that have exited."""
    harness.wait_until_clean()
    for baseline in baselines:
        _check_jobs(harness, baseline.worker, baseline.worker.results[baseline.results :])
        _check_no_leftovers(baseline)
    for worker in harness.take_stopped():
        _check_jobs(harness, worker, worker.results)


def run_clean_job(harness: Harness, handler: str, number: str) -> None:
    """Asserts that a shared worker is alive: it completes a job without a fault."""
    worker = harness.worker(handler)
    assert worker.is_running, "the worker has exited"
    output = worker.run_job((wan if handler == "wan" else sdxl)(f"{number}-clean"))
    assert output["status"] == "completed", output["error_message"]
    _check_answered(worker.results[-1])
    _check_ended_once(harness, worker.results[-1])
    _check_stored(harness, worker.results[-1])


def _check_jobs(harness: Harness, worker: WorkerHandle, results: Sequence[JobResult]) -> None:
    for result in results:
        _check_answered(result)
        _check_ended_once(harness, result)
        _check_stored(harness, result)
        _check_no_wasted_work(result)
    _check_connections(harness, worker)
    _check_no_secrets(harness, worker)


def _check_answered(result: JobResult) -> None:
    body, output = result.body, result.output
    assert json.dumps(body, allow_nan=False)
    assert output["status"] in {"completed", "failed"}
    assert output["job_id"]
    if output["status"] == "failed":
        FailedPayload.model_validate_json(json.dumps(_callback_payload(output)))
        assert body["error"] == output["error_message"]
        assert "\n" not in output["error_message"]


def _check_ended_once(harness: Harness, result: JobResult) -> None:
    payload = _callback_payload(result.output)
    job_id = payload["job_id"]
    # Read before the callbacks: another worker may deliver the entry in between.
    pending = any(json.loads(manifest)["job_id"] == job_id for manifest in harness.outbox_manifests())
    callbacks = [message for message in harness.receiver.messages if message.payload["job_id"] == job_id]
    assert all(message.verified for message in callbacks)
    if result.output.get("callback_pending") and pending:
        return
    assert payload in [message.payload for message in callbacks]
    assert len({message.headers["webhook-id"] for message in callbacks if message.payload["status"] == payload["status"]}) == 1


def _callback_payload(output: dict[str, object]) -> dict[str, object]:
    """Returns the payload without the field that only RunPod receives."""
    return {name: value for name, value in output.items() if name != "callback_pending"}


def _check_stored(harness: Harness, result: JobResult) -> None:
    objects, in_s3 = harness.storage.objects, harness.s3.objects if "s3" in vars(harness) else {}
    for asset in result.output["assets"]:
        if asset["type"] == "text":
            continue
        if asset["url"] in in_s3:
            assert asset["thumbnail_url"] in in_s3
            assert asset["file_size_bytes"] == len(in_s3[asset["url"]])
            continue
        for key in (asset["url"], asset["thumbnail_url"]):
            assert objects[key].metadata["sha256"] == hashlib.sha256(objects[key].content).hexdigest()
        assert asset["file_size_bytes"] == len(objects[asset["url"]].content)
    job_id = result.output["job_id"]
    assert all(key.startswith(f"user-1/{job_id}/") for key in objects if job_id in key)
    assert all(key.startswith("user-1/") for key in objects), "another user's folder"


def _check_no_wasted_work(result: JobResult) -> None:
    if result.rejected:
        assert result.output["status"] == "failed"
        assert result.output["metadata"]["timings"]["generate"] == 0.0


def _check_connections(harness: Harness, worker: WorkerHandle) -> None:
    urls = [harness.storage.url, harness.receiver.url, worker.runpod_api.url, *([harness.s3.url] if "s3" in vars(harness) else [])]
    allowed = {f"127.0.0.1 {url.rpartition(':')[2].partition('/')[0]}" for url in urls}
    # Public addresses have passed the SSRF guard.
    assert [line for line in worker.connections if line not in allowed and not is_public(line.split()[0])] == []


def _check_no_leftovers(baseline: Baseline) -> None:
    worker = baseline.worker
    if not worker.is_running:
        return
    assert list(worker.temp_folder.iterdir()) == []
    deadline = time.monotonic() + 60
    while worker.open_files > baseline.open_files + _FILES_TOLERANCE:
        assert time.monotonic() < deadline, f"{worker.open_files} files are open, {baseline.open_files} before"
        time.sleep(0.1)
    assert worker.memory() < baseline.memory + _MEMORY_TOLERANCE


def _check_no_secrets(harness: Harness, worker: WorkerHandle) -> None:
    texts: list[str] = [worker.process.log, json.dumps([result.body for result in worker.results])]
    texts += [message.body.decode() for message in harness.receiver.messages]
    texts += harness.outbox_manifests()
    for canary in _CANARIES:
        assert not [text for text in texts if canary in text], f"{canary} was disclosed"
