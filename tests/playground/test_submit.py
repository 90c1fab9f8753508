"""`python -m playground.submit` sends a request to an endpoint, waits, and downloads what it made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from playground.services import Endpoint, State
from playground.submit import save, wait
from tests.doubles.fake_storage import FakeStorage, StoredObject
from tests.doubles.gateway import RunningGateway
from tests.doubles.processes import clean_environment, run_module

SERVICE_KEY, RUNPOD_KEY = "sb_secret_canary", "canary-runpod-api-key"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[RunningGateway]:
    """An endpoint without workers: the tests take its jobs."""
    with RunningGateway(tmp_path / "gateway", {"e1": "none"}, workers=0, key=RUNPOD_KEY) as running:
        yield running


def take(gateway: RunningGateway) -> dict[str, Any]:
    """Waits for a job and takes it as a worker does."""
    gateway.wait_for("e1", lambda endpoint: endpoint.queue)
    (job,) = gateway.act("e1", lambda endpoint: endpoint.take("worker", 1))
    return job


def finish(gateway: RunningGateway, result: dict[str, Any]) -> dict[str, Any]:
    """Waits for a job, reports a result as a worker does, and returns the job."""
    job = take(gateway)
    gateway.act("e1", lambda endpoint: endpoint.finish(job["id"], "worker", result))
    return job


def test_an_image_is_downloaded_from_storage(gateway: RunningGateway, tmp_path: Path) -> None:
    with FakeStorage(SERVICE_KEY) as storage:
        storage.objects["u/j/0.png"] = StoredObject(b"picture", "image/png", {})
        keys = {"RUNPOD_API_KEY": RUNPOD_KEY, "RUNPOD_API_URL": gateway.url}
        endpoint = Endpoint("e1", keys | {"SUPABASE_URL": storage.url, "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY})
        run = endpoint.submit({"id": "j", "type": "sdxl_image_fast"})
        assert endpoint.state(run) == State("IN_QUEUE", ended=False)
        job = finish(gateway, {"output": {"assets": [{"type": "image", "asset_index": 0, "temp_storage_path": "u/j/0.png"}]}})
        assert job == {"id": run, "input": {"id": "j", "type": "sdxl_image_fast"}}
        state = wait(endpoint, run)
        assert [save(asset, tmp_path) for asset in state.assets] == [str(tmp_path / "0.png")]
    assert (tmp_path / "0.png").read_bytes() == b"picture"


def test_the_progress_of_a_running_job_is_read(gateway: RunningGateway) -> None:
    endpoint = Endpoint("e1", {"RUNPOD_API_KEY": RUNPOD_KEY, "RUNPOD_API_URL": gateway.url})
    run = endpoint.submit({"input": {"id": "j"}})
    take(gateway)
    gateway.act("e1", lambda endpoint: endpoint.update(run, "worker", {"percent": 40.0}))
    assert endpoint.state(run) == State("IN_PROGRESS", ended=False, percent=40.0)


def test_the_command_prints_where_a_text_is_and_fails_with_a_failed_job(gateway: RunningGateway, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text(json.dumps({"id": "j", "messages": []}))
    environment = clean_environment(RUNPOD_API_KEY=RUNPOD_KEY, RUNPOD_API_URL=gateway.url)

    def submit(result: dict[str, Any]) -> CompletedProcess[str]:
        with ThreadPoolExecutor() as worker:
            worker.submit(finish, gateway, result)
            return run_module("playground.submit", "request.json", "--endpoint", "e1", folder=tmp_path, environment=environment)

    done = submit({"output": {"assets": [{"type": "text", "asset_index": 0, "content": "Hello."}]}})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.strip()).read_text() == "Hello."
    failed = submit({"error": "It failed.", "output": {}})
    assert failed.returncode == 1
    assert "FAILED: It failed." in failed.stderr


def test_a_missing_variable_is_named(tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text("{}")
    done = run_module("playground.submit", "request.json", "--endpoint", "e1", folder=tmp_path, environment=clean_environment())
    assert done.returncode == 1
    assert "Set RUNPOD_API_KEY." in done.stderr
