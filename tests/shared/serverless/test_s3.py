"""Results in S3 and inline are the same as on disk, and can be fetched with nothing but the payload."""

from __future__ import annotations

import urllib.request
from base64 import b64decode
from pathlib import Path
from typing import Any

from tests.doubles.jobs import sdxl_job
from tests.doubles.s3_server import SECRET as S3_SECRET
from tests.doubles.s3_server import FaultProxy, drops_the_response, fails_with, responds
from tests.shared.serverless.conftest import WorkerHarness, start_worker
from tests.shared.serverless.test_supabase import _without_times

_LINKS = ("presigned_url", "thumbnail_presigned_url", "data", "thumbnail_data")


def _run_job(harness: WorkerHarness, job_id: str, **config: Any) -> dict[str, Any]:
    harness.runpod_api.submit(sdxl_job(job_id, **config))
    output: dict[str, Any] = harness.runpod_api.result(job_id)["output"]
    assert harness.callbacks(job_id) == [output]
    return output


def _without_links(payload: dict[str, Any]) -> dict[str, Any]:
    assets = [{name: value for name, value in asset.items() if name not in _LINKS} for asset in payload["assets"]]
    return {**_without_times(payload), "assets": assets}


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as response:
        content: bytes = response.read()
        return content


def test_s3_and_inline_change_only_where_the_files_are(tmp_path: Path, s3: FaultProxy) -> None:
    for name in ("disk", "s3", "inline"):
        (tmp_path / name).mkdir()
    with start_worker(tmp_path / "disk") as harness:
        on_disk = _run_job(harness, "same", num_images=3)
        files = {
            f"user-1/same/{path.name}": path.read_bytes()
            for path in (harness.worker.output / "user-1/same").iterdir()
            if path.suffix != ".json"
        }
    with start_worker(tmp_path / "s3", **s3.environment) as harness:
        in_s3 = _run_job(harness, "same", num_images=3)
        log = harness.worker.log
    with start_worker(tmp_path / "inline", RESULT_STORAGE="inline") as harness:
        inline = _run_job(harness, "same", num_images=3)
        assert not harness.worker.output.exists()
    assert _without_links(in_s3) == _without_links(inline) == _without_times(on_disk)
    assert s3.objects == files
    for stored, returned in zip(in_s3["assets"], inline["assets"], strict=True):
        assert _download(stored["presigned_url"]) == b64decode(returned["data"]) == files[stored["url"]]
        assert _download(stored["thumbnail_presigned_url"]) == b64decode(returned["thumbnail_data"]) == files[stored["thumbnail_url"]]
        assert stored["file_size_bytes"] == len(files[stored["url"]])
    assert S3_SECRET not in log
    assert "X-Amz-Signature" not in log


def test_faults_of_s3_are_retried_refused_or_kept_and_delivered_later(tmp_path: Path, s3: FaultProxy) -> None:
    with start_worker(tmp_path, **s3.environment, UPLOAD_DEADLINE="60") as harness:
        s3.fail(fails_with(503, "SlowDown"), drops_the_response, responds(502, b"<html>"))
        assert _run_job(harness, "stumbles")["status"] == "completed"
        assert "user-1/stumbles/0.png" in s3.objects
        s3.outage = fails_with(403, "InvalidAccessKeyId")
        refused = _run_job(harness, "refused")
        assert (refused["metadata"]["error_code"], refused["metadata"]["retryable"]) == ("UPLOAD_ERROR", False)
        assert len(refused["metadata"]["assets_pending"]) == 2
        assert "Nothing was generated" in _run_job(harness, "refused-at-once")["error_message"]
        s3.recover()
        assert _run_job(harness, "after")["status"] == "completed"
        harness.runpod_api.wait_for(lambda: len(harness.callbacks("refused")) == 2, seconds=60.0, what="the redelivery")
        late = harness.callbacks("refused")[-1]
        assert late["status"] == "completed"
        assert _download(late["assets"][0]["presigned_url"]) == s3.objects["user-1/refused/0.png"]
