"""The gateway answers callers with RunPod's shapes and statuses, and refuses what RunPod refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.doubles.gateway import RunningGateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Without workers: jobs stay in the queue."""
    with RunningGateway(tmp_path_factory.mktemp("gateway"), {"sdxl": "none"}, workers=0) as running:
        yield running


def submit(gateway: RunningGateway, body: Any = None) -> str:
    response = gateway.request("POST", "sdxl/run", json=body or {"input": {"prompt": "x"}})
    assert response.status_code == 200
    job_id: str = response.json()["id"]
    return job_id


def test_run_answers_with_the_id_and_the_state(gateway: RunningGateway) -> None:
    response = gateway.request("POST", "sdxl/run", json={"input": {}})
    assert response.status_code == 200
    assert sorted(response.json()) == ["id", "status"]
    assert response.json()["status"] == "IN_QUEUE"


def test_runsync_answers_with_the_state_when_its_wait_is_over(gateway: RunningGateway) -> None:
    job = gateway.request("POST", "sdxl/runsync?wait=1000", json={"input": {}}).json()
    assert job["id"].startswith("sync-")
    assert job["status"] == "IN_QUEUE"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_status_answers_both_methods(gateway: RunningGateway, method: str) -> None:
    job_id = submit(gateway)
    assert gateway.request(method, f"sdxl/status/{job_id}").json() == {"id": job_id, "status": "IN_QUEUE"}


def test_cancelling_ends_a_waiting_job_at_once_and_its_stream_too(gateway: RunningGateway) -> None:
    job_id = submit(gateway)
    assert gateway.request("POST", f"sdxl/cancel/{job_id}").json() == {"id": job_id, "status": "CANCELLED"}
    assert gateway.request("GET", f"sdxl/stream/{job_id}").json() == {"status": "CANCELLED", "stream": []}
    assert gateway.request("GET", f"sdxl/status-sync/{job_id}").json()["status"] == "CANCELLED"


def test_only_failed_jobs_can_be_retried(gateway: RunningGateway) -> None:
    response = gateway.request("POST", f"sdxl/retry/{submit(gateway)}")
    assert (response.status_code, response.json()["error"]) == (
        400,
        "only jobs that are FAILED or TIMED_OUT can be retried; this one is IN_QUEUE",
    )


def test_purging_answers_with_the_number_of_removed_jobs(gateway: RunningGateway) -> None:
    gateway.request("POST", "sdxl/purge-queue")
    submit(gateway)
    submit(gateway)
    assert gateway.request("POST", "sdxl/purge-queue").json() == {"removed": 2, "status": "completed"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the request body is not JSON"),
        (b"[" * 100_000, "the request body is not JSON"),
        (b"[]", "the request body must be a JSON object with `input`"),
        (b'{"prompt": "x"}', "the request body must be a JSON object with `input`"),
        (b'{"input": {}, "policy": 5}', "`policy` must be an object"),
        (b'{"input": {}, "policy": {"executionTimeout": 4999}}', "`policy.executionTimeout` must be 5000 to 604800000 (milliseconds)"),
        (b'{"input": {}, "policy": {"ttl": "1h"}}', "`policy.ttl` must be 10000 to 604800000 (milliseconds)"),
    ],
)
def test_a_body_that_is_no_job_is_refused(gateway: RunningGateway, body: bytes, message: str) -> None:
    response = gateway.request("POST", "sdxl/run", content=body)
    assert (response.status_code, response.json()) == (400, {"error": message})


def test_a_body_above_the_limit_is_refused(gateway: RunningGateway) -> None:
    body = json.dumps({"input": "x" * 10 * 2**20}).encode()
    assert gateway.request("POST", "sdxl/run", content=body).status_code == 413
    assert gateway.request("POST", "sdxl/runsync?wait=1000", content=body).status_code == 200


@pytest.mark.parametrize("wait", ["999", "300001", "soon"])
def test_a_wait_out_of_range_is_refused(gateway: RunningGateway, wait: str) -> None:
    assert gateway.request("POST", f"sdxl/runsync?wait={wait}", json={"input": {}}).status_code == 400


@pytest.mark.parametrize("path", ["sdxl/status/unknown", "sdxl/stream/unknown", "other/health", "sdxl/unknown"])
def test_what_does_not_exist_is_not_found(gateway: RunningGateway, path: str) -> None:
    assert gateway.request("GET", path).status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://example.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "rebound.example.com"}, 421),
    ],
)
def test_requests_that_another_website_makes_a_browser_send_are_refused(
    gateway: RunningGateway, headers: dict[str, str], status: int
) -> None:
    assert gateway.request("POST", "sdxl/run", json={"input": {}}, headers=headers).status_code == status


def test_a_worker_needs_the_key_of_workers(gateway: RunningGateway) -> None:
    assert httpx.get(f"{gateway.root}/worker/sdxl/job-take/a").status_code == 401


@pytest.mark.parametrize(("sent", "status"), [("Bearer secret", 200), ("secret", 200), ("Bearer other", 401), (None, 401)])
def test_with_a_key_set_callers_need_it(tmp_path: Path, sent: str | None, status: int) -> None:
    with RunningGateway(tmp_path, {"sdxl": "none"}, workers=0, key="secret") as gateway:
        headers = {"Authorization": sent} if sent else {}
        assert gateway.request("GET", "sdxl/health", headers=headers).status_code == status


@pytest.mark.parametrize("path", ["../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt"])
def test_only_results_are_served_as_assets(gateway: RunningGateway, tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
    (tmp_path_factory.getbasetemp() / "secret.txt").write_text("secret")
    assert httpx.get(f"{gateway.root}/assets/{path}").status_code == 404
