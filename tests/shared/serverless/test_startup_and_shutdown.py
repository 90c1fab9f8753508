"""Workers that cannot start, are scaled down, hang, or lose their GPU."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from shared.runpod_sdk import processor_name
from shared.settings import Settings
from tests.doubles.fake_runpod import FakeRunPodAPI
from tests.doubles.jobs import sdxl_job
from tests.doubles.processes import ROOT, clean_environment
from tests.doubles.stub_worker import HOLD
from tests.doubles.waiting import wait_until
from tests.doubles.worker import WorkerProcess
from tests.shared.serverless.conftest import WorkerHarness, start_worker


def test_the_start_is_logged_phase_by_phase(own_harness: WorkerHarness) -> None:
    (ready,) = (json.loads(line) for line in own_harness.worker.log.splitlines() if '"worker ready"' in line)
    phases = [ready[f"{phase}_ms"] for phase in ("process", "checks", "sdk", "load", "worker")]
    assert min(phases) >= 0
    assert ready["total_ms"] == pytest.approx(sum(phases), abs=1)


def test_the_sdk_is_imported_without_measuring_the_processor() -> None:
    """py-cpuinfo starts a process and measures for more than a second; its answer is shown by a debugger only."""
    program = (
        "import sys\nfrom shared.runpod_sdk import processor_name, runpod_serverless\nassert runpod_serverless().start\n"
        "from runpod.serverless.utils.rp_debugger import PROCESSOR\nprint(PROCESSOR == processor_name(), 'cpuinfo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_the_name_of_the_processor_is_that_of_linux_or_its_architecture(tmp_path: Path) -> None:
    described = tmp_path / "cpuinfo"
    assert processor_name(described) == platform.machine()
    described.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz: fast\nprocessor\t: 1\nmodel name\t: Another\n")
    assert processor_name(described) == "Some CPU @ 2 GHz: fast"


def test_worker_that_is_scaled_down_finishes_its_job(own_harness: WorkerHarness) -> None:
    own_harness.runpod_api.submit(sdxl_job("last", "slowly", steps=30))
    own_harness.runpod_api.wait_for(lambda: bool(own_harness.runpod_api.progress("last")))
    own_harness.worker.terminate()
    assert own_harness.runpod_api.result("last")["output"]["status"] == "completed"
    assert own_harness.worker.wait() == 0
    assert len(own_harness.callbacks("last")) == 1


def test_worker_that_lost_its_gpu_answers_and_takes_no_further_job(own_harness: WorkerHarness) -> None:
    own_harness.runpod_api.submit(sdxl_job("lost", "lose"))
    body = own_harness.runpod_api.result("lost")
    assert body["stopPod"] is True
    assert body["output"]["metadata"]["error_code"] == "DEVICE_ERROR"
    own_harness.runpod_api.submit(sdxl_job("for-another-worker"))
    assert own_harness.worker.wait() == 1, "0 would signal success"
    assert own_harness.runpod_api.results("for-another-worker") == []
    assert own_harness.steps("for-another-worker") == []


def test_losing_the_gpu_answers_all_in_flight_jobs(tmp_path: Path) -> None:
    with start_worker(tmp_path, JOB_CONCURRENCY="3") as harness:
        hold = harness.worker.folder / HOLD
        hold.touch()
        harness.runpod_api.submit(sdxl_job("lost", "lose"))
        harness.wait_for_step("lost")
        harness.runpod_api.submit(sdxl_job("waits"))
        harness.wait_for_validation("waits")
        hold.unlink()
        for job_id in ("lost", "waits"):
            output = harness.runpod_api.result(job_id)["output"]
            assert (output["metadata"]["error_code"], output["metadata"]["retryable"]) == ("DEVICE_ERROR", True)
            assert harness.callbacks(job_id) == [output]
        assert harness.steps("waits") == []
        assert harness.worker.wait() == 1


def test_job_that_hangs_is_answered_by_its_deadline_and_the_worker_exits(tmp_path: Path) -> None:
    with start_worker(tmp_path, JOB_CONCURRENCY="2", JOB_TIMEOUT="6", JOB_GRACE="0.5") as harness:
        harness.runpod_api.submit(sdxl_job("hangs", "hang"))
        harness.wait_for_step("hangs")
        assert len(members(harness.worker)) > 1
        harness.runpod_api.submit(sdxl_job("behind"))
        output = harness.runpod_api.result("hangs")["output"]
        assert (output["metadata"]["error_code"], output["metadata"]["retryable"]) == ("JOB_TIMEOUT", True)
        assert "does not respond" in output["error_message"]
        assert harness.callbacks("hangs") == [output]
        assert harness.runpod_api.result("behind")["output"]["metadata"]["error_code"] in {"DEVICE_ERROR", "JOB_TIMEOUT"}
        assert harness.worker.wait() == 1, "although one of its threads still hangs"
        wait_until(lambda: not members(harness.worker), "the child processes have not ended")
        assert "Traceback" not in harness.worker.log


def members(worker: WorkerProcess) -> list[str]:
    """Returns the live processes of a worker's group: the worker and its children, such as the SDK's heartbeat."""
    stats = [line.rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat") if (line := _read(path))]
    return [state for state, _parent, group, *_ in stats if group == str(worker.process.pid) and state != "Z"]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has just exited
        return ""


def test_worker_exits_even_if_the_interpreter_is_blocked(tmp_path: Path) -> None:
    """Such a process cannot answer its job. Its exit makes RunPod deliver the job again."""
    limits = {"JOB_TIMEOUT": "5", "JOB_GRACE": "0.5", "UPLOAD_DEADLINE": "0.5", "CALLBACK_DEADLINE": "0.5"}
    with start_worker(tmp_path, **limits) as harness:
        harness.runpod_api.submit(sdxl_job("freezes", "freeze"))
        assert harness.worker.wait() == 1
        assert harness.runpod_api.results("freezes") == []
        assert "File " not in harness.worker.log, "the traceback of the timer is discarded"


def test_handlers_can_have_their_own_timeout(tmp_path: Path) -> None:
    settings = Settings(job_timeout=100.0, wan_job_timeout=900.0)
    assert (settings.job_timeout_for("wan"), settings.job_timeout_for("sdxl")) == (900.0, 100.0)
    assert [Settings().job_timeout_for(name) for name in ("sdxl", "chat", "wan")] == [570.0, 570.0, 870.0]
    assert Settings(job_timeout=100.0).job_timeout_for("wan") == 100.0


def test_only_device_errors_replace_the_worker(own_harness: WorkerHarness) -> None:
    for verb in ("crash", "fill", "hugely", "paint"):
        own_harness.runpod_api.submit(sdxl_job(verb, verb))
        assert "stopPod" not in own_harness.runpod_api.result(verb)
    assert own_harness.worker.process.poll() is None


def test_incomplete_configuration_makes_the_worker_unhealthy(tmp_path: Path) -> None:
    with (
        FakeRunPodAPI() as runpod_api,
        WorkerProcess("tests.doubles.stub_worker", runpod_api, tmp_path, {"SUPABASE_URL": "http://127.0.0.1:1"}) as worker,
    ):
        assert worker.wait() == 1
        assert runpod_api.takes == []
        (ping,) = (query for query in runpod_api.pings if query.get("status") == ["unhealthy"])
        assert ping["check"] == ["configuration"]
        assert "SUPABASE_SERVICE_ROLE_KEY" in ping["reason"][0]
        assert "JOB_CALLBACK_SECRET" in ping["reason"][0]


def test_failed_start_reports_all_problems_at_once(tmp_path: Path) -> None:
    (tmp_path / "outbox").write_text("a file")
    (tmp_path / "models/sdxl").mkdir(parents=True)
    environment = {"SUPABASE_URL": "http://127.0.0.1:1", "CALLBACK_ALLOWED_HOSTS": "example.com", "MODELS_DIR": "models"}
    with FakeRunPodAPI() as runpod_api, WorkerProcess("handlers.sdxl.handler", runpod_api, tmp_path, environment) as worker:
        assert worker.wait() == 1
        assert runpod_api.takes == []
        (ping,) = (query for query in runpod_api.pings if query.get("status") == ["unhealthy"])
        assert ping["check"] == ["start"]
        assert "3 things are wrong (configuration, outbox, weights sdxl)" in ping["reason"][0]
        for word in ("SUPABASE_SERVICE_ROLE_KEY", "JOB_CALLBACK_SECRET", "OUTBOX_DIR", "model_index.json"):
            assert word in worker.log
        assert '"component"' not in worker.log, "nothing was loaded"


def test_pings_name_the_job_in_progress(own_harness: WorkerHarness) -> None:
    own_harness.runpod_api.submit(sdxl_job("pinged", "slowly", steps=50))
    own_harness.runpod_api.wait_for(lambda: any(query.get("job_id") == ["pinged"] for query in own_harness.runpod_api.pings))
