"""Failed checks at the start: the worker reports the reason, takes no job, and exits."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.fake_runpod import FakeRunPodAPI
from tests.doubles.worker import WorkerProcess


def refusal(folder: Path, **environment: str) -> tuple[str, str]:
    """Returns the failed check and its reason, as reported to RunPod."""
    with FakeRunPodAPI() as runpod_api, WorkerProcess("tests.doubles.stub_worker", runpod_api, folder, environment) as worker:
        assert worker.wait() == 1
        assert runpod_api.takes == []
        unhealthy = [query for query in runpod_api.pings if query.get("status") == ["unhealthy"]]
        assert len(unhealthy) == 1, worker.log
        return unhealthy[0]["check"][0], unhealthy[0]["reason"][0]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 100 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)], check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system needs privileges")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_fails_the_start(tmp_path: Path, small_disk: Path) -> None:
    check, reason = refusal(tmp_path, TMPDIR=str(small_disk))
    assert check == "disk"
    assert "There are 100 MiB left for temporary files, and 256 are needed." in reason


def test_plain_http_receiver_fails_the_start(tmp_path: Path) -> None:
    check, reason = refusal(tmp_path, JOB_CALLBACK_URL="http://receiver.example/", JOB_CALLBACK_SECRET="a-secret-for-tests")
    assert check == "callbacks"
    assert "JOB_CALLBACK_URL must start with https://" in reason
