"""How a worker ends, and what it says when it cannot begin."""

from __future__ import annotations

from pathlib import Path

from tests.doubles.gateway import Gateway
from tests.doubles.jobs import sdxl_job
from tests.doubles.worker import WorkerProcess
from tests.serverless.conftest import Loop


def test_a_worker_that_is_scaled_down_finishes_its_job(own_loop: Loop) -> None:
    own_loop.gateway.submit(sdxl_job("last", "slowly", steps=30))
    own_loop.gateway.wait_for(lambda: bool(own_loop.gateway.progress("last")))
    own_loop.worker.terminate()
    assert own_loop.gateway.result("last")["output"]["status"] == "completed"
    assert own_loop.worker.wait() == 0
    assert len(own_loop.callbacks("last")) == 1


def test_a_worker_that_lost_its_gpu_answers_and_takes_no_further_job(own_loop: Loop) -> None:
    own_loop.gateway.submit(sdxl_job("lost", "lose"))
    body = own_loop.gateway.result("lost")
    assert body["stopPod"] is True
    assert body["output"]["metadata"]["error_code"] == "DEVICE_ERROR"
    own_loop.gateway.submit(sdxl_job("for-another-worker"))
    assert own_loop.worker.wait() == 0
    assert own_loop.gateway.results("for-another-worker") == []
    assert own_loop.steps("for-another-worker") == []


def test_only_a_lost_gpu_replaces_the_worker(own_loop: Loop) -> None:
    for verb in ("crash", "fill", "hugely", "paint"):
        own_loop.gateway.submit(sdxl_job(verb, verb))
        assert "stopPod" not in own_loop.gateway.result(verb)
    assert own_loop.worker.process.poll() is None


def test_a_worker_that_is_half_configured_reports_itself_unhealthy_and_takes_no_job(tmp_path: Path) -> None:
    with Gateway() as gateway, WorkerProcess("tests.doubles.paint", gateway, tmp_path, {"SUPABASE_URL": "http://127.0.0.1:1"}) as worker:
        assert worker.wait() == 1
        assert gateway.takes == []
        (ping,) = (query for query in gateway.pings if query.get("status") == ["unhealthy"])
        assert ping["check"] == ["configuration"]
        assert "SUPABASE_SERVICE_ROLE_KEY" in ping["reason"][0]
        assert "JOB_CALLBACK_SECRET" in ping["reason"][0]


def test_pings_name_the_job_in_progress(own_loop: Loop) -> None:
    own_loop.gateway.submit(sdxl_job("pinged", "slowly", steps=50))
    own_loop.gateway.wait_for(lambda: any(query.get("job_id") == ["pinged"] for query in own_loop.gateway.pings))
