"""A chat worker that runs vLLM (a stand-in for it), under RunPod's real SDK: no failure of the server costs more than the jobs it had."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.processes import clean_environment, run_module
from tests.doubles.vllm import StandIn, is_running, stand_in_at
from tests.doubles.waiting import wait_until
from tests.shared.serverless.conftest import WorkerHarness, start_worker


@contextmanager
def vllm_worker(stand_in: StandIn, models: Path, folder: Path) -> Iterator[WorkerHarness]:
    folder.mkdir()
    environment = {"CHAT_ENGINE": "vllm", "CHAT_VLLM_PYTHON": str(stand_in.python), "VLLM_STAND_IN": str(stand_in.folder)}
    settings = {
        "MODELS_DIR": str(models),
        "JOB_CONCURRENCY": "4",
        "CHAT_STREAMING": "1",
        "QWEN_BASE_MODEL": "",
        "VOLUME_MODELS_DIR": "none",
    }
    with start_worker(folder, "handlers.chat.handler", **environment, **settings) as harness:
        yield harness


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    with stand_in_at(tmp_path) as stand_in:
        yield stand_in


@pytest.fixture
def instruct_only(tmp_path: Path, tiny_models: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "qwen_instruct").symlink_to(tiny_models / "qwen_instruct")
    return folder


def job(job_id: str, **fields: Any) -> dict[str, Any]:
    return {"id": job_id, "input": {"prompt": "canary-words", "max_tokens": 400, **fields}}


def test_killing_vllm_in_mid_answer_answers_every_job_and_the_next_one_is_done_by_another_worker(
    stand_in: StandIn, instruct_only: Path, tmp_path: Path
) -> None:
    stand_in.set("slow", "0.05")
    with vllm_worker(stand_in, instruct_only, tmp_path / "first") as harness:
        for name in ("streamed", "whole"):
            harness.runpod_api.submit(job(name, stream=name == "streamed"))
        harness.runpod_api.wait_for(lambda: bool(harness.runpod_api.streamed("streamed")))
        wait_until(lambda: len(stand_in.lines("requests.jsonl")) == 2)
        os.kill(stand_in.pids[0][0], signal.SIGKILL)
        for name in ("streamed", "whole"):
            assert "Send the job again" in harness.runpod_api.result(name)["error"]
        assert harness.worker.wait() == 1, "0 would signal success"
        harness.runpod_api.submit(job("next"))
        assert harness.runpod_api.results("next") == []
        assert "canary" not in harness.worker.log
    assert not any(is_running(pid) for pid in stand_in.pids[0])
    (stand_in.folder / "slow").unlink()
    with vllm_worker(stand_in, instruct_only, tmp_path / "second") as harness:
        harness.runpod_api.submit(job("next"))
        (payload,) = harness.runpod_api.result("next")["output"]
        assert (payload["status"], payload["response"]) == ("completed", " 1 2 3 4 5 6 7 8 9 10")


def test_a_worker_whose_vllm_dies_between_jobs_takes_no_further_job(stand_in: StandIn, instruct_only: Path, tmp_path: Path) -> None:
    with vllm_worker(stand_in, instruct_only, tmp_path / "worker") as harness:
        harness.runpod_api.submit(job("first"))
        harness.runpod_api.result("first")
        os.kill(stand_in.pids[0][0], signal.SIGKILL)
        assert harness.worker.wait() == 1
        harness.runpod_api.submit(job("next"))
        assert harness.runpod_api.taken == ["first"]
        wait_until(lambda: not any(is_running(pid) for pid in stand_in.pids[0]))


def test_scaling_down_ends_vllm(stand_in: StandIn, instruct_only: Path, tmp_path: Path) -> None:
    with vllm_worker(stand_in, instruct_only, tmp_path / "worker") as harness:
        harness.worker.terminate()
        harness.runpod_api.drain()
        assert harness.worker.wait() == 0
        wait_until(lambda: not any(is_running(pid) for pid in stand_in.pids[0]))


def test_a_worker_without_vllm_says_so_before_it_loads_anything(tmp_path: Path, instruct_only: Path) -> None:
    environment = clean_environment(CHAT_ENGINE="vllm", CHAT_VLLM_PYTHON="/none", MODELS_DIR=str(instruct_only))
    done = run_module("handlers.chat.handler", "--check", folder=tmp_path, environment=environment)
    assert done.returncode == 1
    assert "CHAT_VLLM_PYTHON must be the Python of an environment in which vLLM is installed" in done.stdout
