"""A chat worker with vLLM itself, under RunPod's real SDK. Skipped where `make vllm` has not installed it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.vllm import is_running, real_vllm
from tests.doubles.waiting import wait_until
from tests.shared.serverless.conftest import start_worker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that these have started."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [each for child in map(int, listed) for each in (child, *descendants(child))]


def named(pids: list[int], name: str) -> list[int]:
    return [pid for pid in pids if name in Path(f"/proc/{pid}/cmdline").read_text()]


def job(job_id: str, **fields: Any) -> dict[str, Any]:
    return {"id": job_id, "input": {"prompt": "canary-words", "temperature": 0, "max_tokens": 8, **fields}}


@pytest.mark.parametrize("victim", ["vllm.entrypoints", "EngineCore"])
def test_killing_vllm_in_mid_answer_loses_nothing_and_the_next_job_is_answered(tmp_path: Path, models: Path, victim: str) -> None:
    settings = {name.upper(): str(value) for name, value in real_vllm().items()}
    settings |= {"MODELS_DIR": str(tmp_path), "QWEN_INSTRUCT_MODEL": str(models / "qwen_instruct"), "CHAT_STREAMING": "1"}
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    with start_worker(tmp_path / "first", "handlers.chat.handler", **settings) as harness:
        harness.runpod_api.submit(job("before"))
        assert harness.runpod_api.result("before", 120)["output"][0]["status"] == "completed"
        for name in ("one", "two", "three"):
            harness.runpod_api.submit(job(name, max_tokens=2000, min_tokens=2000, stream=True))
        harness.runpod_api.wait_for(lambda: all(harness.runpod_api.streamed(name) for name in ("one", "two", "three")), 120)
        processes = descendants(harness.worker.process.pid)
        os.kill(named(processes, victim)[0], signal.SIGKILL)
        for name in ("one", "two", "three"):
            assert "Send the job again" in harness.runpod_api.result(name)["error"]
        assert harness.worker.wait() == 1
        wait_until(lambda: not any(map(is_running, processes)))
        assert "canary" not in harness.worker.log
        taken = list(harness.runpod_api.taken)
        harness.runpod_api.submit(job("next"))
        assert taken == harness.runpod_api.taken == ["before", "one", "two", "three"]
    with start_worker(tmp_path / "second", "handlers.chat.handler", **settings) as harness:
        harness.runpod_api.submit(job("next"))
        assert harness.runpod_api.result("next", 120)["output"][0]["status"] == "completed"
