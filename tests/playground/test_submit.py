"""`python -m playground.submit` sends a request to an endpoint, waits, and downloads what it made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from playground.services import Endpoint, State
from playground.submit import save, wait
from tests.doubles.fake_runpod import FakeRunPodAPI
from tests.doubles.fake_storage import FakeStorage, StoredObject
from tests.doubles.processes import clean_environment, run_module
from tests.doubles.runpod_endpoints import KEY, RunPodEndpoints

SERVICE_KEY = "sb_secret_canary"


@pytest.fixture
def api() -> Iterator[FakeRunPodAPI]:
    with FakeRunPodAPI() as running:
        yield running


@pytest.fixture
def runpod(api: FakeRunPodAPI) -> Iterator[RunPodEndpoints]:
    with RunPodEndpoints({"e1": api}) as running:
        yield running


def finish(api: FakeRunPodAPI, run: str, body: dict[str, Any]) -> None:
    """Reports a result as a worker does."""
    api.take(1, busy=False)
    api.record("job-done", run, body)


def test_an_image_is_downloaded_from_storage(api: FakeRunPodAPI, runpod: RunPodEndpoints, tmp_path: Path) -> None:
    with FakeStorage(SERVICE_KEY) as storage:
        storage.objects["u/j/0.png"] = StoredObject(b"picture", "image/png", {})
        keys = {"RUNPOD_API_KEY": KEY, "RUNPOD_API_URL": runpod.api, "SUPABASE_URL": storage.url, "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY}
        endpoint = Endpoint("e1", keys)
        run = endpoint.submit({"id": "j", "type": "sdxl_image_fast"})
        assert runpod.inputs[run] == {"id": "j", "type": "sdxl_image_fast"}
        assert endpoint.state(run) == State("IN_QUEUE", ended=False)
        finish(api, run, {"output": {"assets": [{"type": "image", "asset_index": 0, "temp_storage_path": "u/j/0.png"}]}})
        state = wait(endpoint, run)
        assert [save(asset, tmp_path) for asset in state.assets] == [str(tmp_path / "0.png")]
    assert (tmp_path / "0.png").read_bytes() == b"picture"


def test_the_progress_of_a_running_job_is_read(api: FakeRunPodAPI, runpod: RunPodEndpoints) -> None:
    endpoint = Endpoint("e1", {"RUNPOD_API_KEY": KEY, "RUNPOD_API_URL": runpod.api})
    run = endpoint.submit({"input": {"id": "j"}})
    api.take(1, busy=False)
    api.record("job-done", run, {"status": "IN_PROGRESS", "output": {"percent": 40.0}})
    assert endpoint.state(run) == State("IN_PROGRESS", ended=False, percent=40.0)


def test_the_command_prints_where_a_text_is_and_fails_with_a_failed_job(
    api: FakeRunPodAPI, runpod: RunPodEndpoints, tmp_path: Path
) -> None:
    (tmp_path / "request.json").write_text(json.dumps({"id": "j", "messages": []}))
    environment = clean_environment(RUNPOD_API_KEY=KEY, RUNPOD_API_URL=runpod.api)
    runs = iter(({"output": {"assets": [{"type": "text", "asset_index": 0, "content": "Hello."}]}}, {"error": "It failed.", "output": {}}))

    def answer(run: str, *_: object) -> dict[str, Any]:
        finish(api, run, next(runs))
        return {"id": run, "status": "IN_QUEUE"}

    queue = runpod.run
    runpod.run = lambda endpoint, body: answer(queue(endpoint, body)["id"])  # type: ignore[method-assign]
    arguments = ("request.json", "--endpoint", "e1")
    done = run_module("playground.submit", *arguments, folder=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.strip()).read_text() == "Hello."
    failed = run_module("playground.submit", *arguments, folder=tmp_path, environment=environment)
    assert failed.returncode == 1
    assert "FAILED: It failed." in failed.stderr


def test_a_missing_variable_is_named(tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text("{}")
    done = run_module("playground.submit", "request.json", "--endpoint", "e1", folder=tmp_path, environment=clean_environment())
    assert done.returncode == 1
    assert "Set RUNPOD_API_KEY." in done.stderr
