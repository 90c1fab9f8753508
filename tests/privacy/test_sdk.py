"""An error raised by RunPod's SDK is logged without its message, which the SDK's own exception hook would print."""

from __future__ import annotations

from pathlib import Path

from tests.doubles.fake_runpod import FakeRunPodAPI
from tests.doubles.worker import WorkerProcess


def test_an_error_in_the_sdk_is_logged_without_its_message(tmp_path: Path) -> None:
    with FakeRunPodAPI() as runpod_api, WorkerProcess("tests.privacy.broken_worker", runpod_api, tmp_path) as worker:
        assert worker.wait(60) == 1
        log = worker.log
    assert '"error_type": "RuntimeError", "where": "_fail:' in log
    assert "canary" not in log
    assert "Traceback" not in log
