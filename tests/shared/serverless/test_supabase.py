"""With a Supabase project nothing changes but the place of the files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tests.doubles.fake_storage import FakeStorage, drops_the_response, fails_with, responds
from tests.doubles.jobs import sdxl_job
from tests.shared.serverless.conftest import SECRET, Loop, started

KEY = "canary-service-key"
# What no two runs of a job have in common.
_OWN = ("processing_time", "generation_time", "timings")


def _environment(storage: FakeStorage) -> dict[str, str]:
    return {"SUPABASE_URL": storage.url, "SUPABASE_SERVICE_ROLE_KEY": KEY, "JOB_CALLBACK_SECRET": SECRET}


def _essence(payload: dict[str, Any]) -> dict[str, Any]:
    metadata = {name: value for name, value in payload["metadata"].items() if name not in _OWN}
    return {**payload, "metadata": metadata, "completedAt": None}


def _do(loop: Loop, job_id: str, **config: Any) -> dict[str, Any]:
    loop.runpod_api.submit(sdxl_job(job_id, **config))
    output: dict[str, Any] = loop.runpod_api.result(job_id)["output"]
    assert loop.callbacks(job_id) == [output]
    return output


def test_supabase_changes_only_the_location_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "project").mkdir()
    with started(tmp_path / "disk") as loop:
        on_disk = _do(loop, "same", num_images=3)
        files = {path.name: path.read_bytes() for path in (loop.worker.output / "user-1/same").iterdir() if path.suffix != ".json"}
    with FakeStorage(KEY) as storage, started(tmp_path / "project", **_environment(storage)) as loop:
        in_project = _do(loop, "same", num_images=3)
        log = loop.worker.log
    assert _essence(in_project) == _essence(on_disk)
    assert {f"user-1/same/{name}": content for name, content in files.items()} == {key: o.content for key, o in storage.objects.items()}
    for asset in in_project["assets"]:
        stored = storage.objects[asset["url"]]
        assert stored.content_type == asset["mime_type"]
        assert stored.metadata["sha256"] == hashlib.sha256(stored.content).hexdigest()
    assert KEY not in log


def test_transient_storage_errors_are_retried_and_permanent_ones_fail_the_job(tmp_path: Path) -> None:
    with FakeStorage(KEY) as storage, started(tmp_path, **_environment(storage)) as loop:
        storage.fail(fails_with(503), drops_the_response, responds(502, b"<html>", "text/html"))
        assert _do(loop, "stumbles")["status"] == "completed"
        assert "user-1/stumbles/0.png" in storage.objects
        storage.fail(*[fails_with(403)] * 2)
        refused = _do(loop, "refused")
        assert (refused["metadata"]["error_code"], refused["metadata"]["retryable"]) == ("UPLOAD_ERROR", False)
        assert refused["assets"] == []
        assert KEY not in loop.worker.log
