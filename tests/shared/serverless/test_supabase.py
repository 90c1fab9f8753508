"""Results with Supabase storage are the same as with local storage."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tests.doubles.fake_storage import FakeStorage, drops_the_response, fails_with, responds
from tests.doubles.jobs import sdxl_job
from tests.shared.serverless.conftest import SECRET, WorkerHarness, start_worker

KEY = "canary-service-key"
# These differ between two runs of the same job.
_TIMES = ("processing_time", "generation_time", "timings")


def _environment(storage: FakeStorage) -> dict[str, str]:
    return {"SUPABASE_URL": storage.url, "SUPABASE_SERVICE_ROLE_KEY": KEY, "JOB_CALLBACK_SECRET": SECRET}


def _without_times(payload: dict[str, Any]) -> dict[str, Any]:
    metadata = {name: value for name, value in payload["metadata"].items() if name not in _TIMES}
    return {**payload, "metadata": metadata, "completedAt": None}


def _run_job(harness: WorkerHarness, job_id: str, **config: Any) -> dict[str, Any]:
    harness.runpod_api.submit(sdxl_job(job_id, **config))
    output: dict[str, Any] = harness.runpod_api.result(job_id)["output"]
    assert harness.callbacks(job_id) == [output]
    return output


def test_supabase_changes_only_the_location_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "project").mkdir()
    with start_worker(tmp_path / "disk") as harness:
        on_disk = _run_job(harness, "same", num_images=3)
        files = {path.name: path.read_bytes() for path in (harness.worker.output / "user-1/same").iterdir() if path.suffix != ".json"}
    with FakeStorage(KEY) as storage, start_worker(tmp_path / "project", **_environment(storage)) as harness:
        in_project = _run_job(harness, "same", num_images=3)
        log = harness.worker.log
    assert _without_times(in_project) == _without_times(on_disk)
    assert {f"user-1/same/{name}": content for name, content in files.items()} == {key: o.content for key, o in storage.objects.items()}
    for asset in in_project["assets"]:
        stored = storage.objects[asset["url"]]
        assert stored.content_type == asset["mime_type"]
        assert stored.metadata["sha256"] == hashlib.sha256(stored.content).hexdigest()
    assert KEY not in log


def test_transient_storage_errors_are_retried_and_permanent_ones_fail_the_job(tmp_path: Path) -> None:
    with FakeStorage(KEY) as storage, start_worker(tmp_path, **_environment(storage)) as harness:
        storage.fail(fails_with(503), drops_the_response, responds(502, b"<html>", "text/html"))
        assert _run_job(harness, "stumbles")["status"] == "completed"
        assert "user-1/stumbles/0.png" in storage.objects
        storage.fail(*[fails_with(403)] * 2)
        refused = _run_job(harness, "refused")
        assert (refused["metadata"]["error_code"], refused["metadata"]["retryable"]) == ("UPLOAD_ERROR", False)
        assert refused["assets"] == []
        assert KEY not in harness.worker.log
