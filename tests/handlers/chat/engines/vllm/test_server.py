"""vLLM's server as a child process: it starts, is logged, and never outlives the worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from handlers.chat.engines.vllm.arguments import Share, environment, server_command, shares
from handlers.chat.engines.vllm.server import VllmServer, check_python
from shared.settings import Settings, SettingsError
from tests.doubles.processes import ROOT, clean_environment
from tests.doubles.vllm import StandIn, is_running
from tests.doubles.waiting import wait_until


def start(stand_in: StandIn, timeout: float = 60.0, grace: float = 10.0) -> VllmServer:
    def command(port: int) -> Sequence[str]:
        return server_command(stand_in.settings(), Path("/secret-place/qwen"), "qwen_instruct", port, Share(0.5))

    server = VllmServer("qwen_instruct", command, environment(), grace)
    server.wait_until_ready(timeout)
    return server


def test_closing_ends_the_server_and_the_engine_that_it_has_started(stand_in: StandIn) -> None:
    server = start(stand_in)
    (pids,) = stand_in.pids
    assert httpx.get(f"{server.url}/health", trust_env=False).status_code == 200
    server.close()
    assert server.has_exited
    assert not any(map(is_running, pids))


def test_the_engine_of_a_killed_server_is_killed_too(stand_in: StandIn) -> None:
    server = start(stand_in)
    ((api_server, engine),) = stand_in.pids
    os.kill(api_server, signal.SIGKILL)
    wait_until(lambda: server.has_exited)
    assert not is_running(engine)
    server.close()


def test_nothing_of_the_server_outlives_a_killed_worker(stand_in: StandIn) -> None:
    """The worker has forked a process, as RunPod's SDK does, that lives on with every pipe of its parent."""
    code = (
        "import os, time; from pathlib import Path; from handlers.chat.engines.vllm.arguments import environment;"
        "from handlers.chat.engines.vllm.server import VllmServer;"
        f"server = VllmServer('m', lambda port: ['{stand_in.python}', '--host', '127.0.0.1', '--port', str(port)], environment());"
        "server.wait_until_ready(60); pid = os.fork() or time.sleep(600) or os._exit(0); print('forked', pid, flush=True); time.sleep(600)"
    )
    variables = clean_environment(VLLM_STAND_IN=str(stand_in.folder))
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        forked = next(int(line.split()[1]) for line in worker.stdout if line.startswith("forked"))
        worker.kill()
    (pids,) = stand_in.pids
    try:
        wait_until(lambda: not any(map(is_running, pids)))
    finally:
        os.kill(forked, signal.SIGKILL)


def test_the_server_is_killed_with_its_guardian_and_the_engine_by_the_worker(stand_in: StandIn) -> None:
    server = start(stand_in)
    ((api_server, engine),) = stand_in.pids
    os.kill(server._process.pid, signal.SIGKILL)
    wait_until(lambda: not is_running(api_server))
    assert server.has_exited
    server.close()
    wait_until(lambda: not is_running(engine))


def test_a_server_that_does_not_end_when_asked_is_killed(stand_in: StandIn) -> None:
    server = start(stand_in, grace=0.5)
    (pids,) = stand_in.pids
    os.kill(pids[0], signal.SIGSTOP)  # does not react to SIGTERM
    server.close()
    assert not any(map(is_running, pids))


def test_a_failed_start_is_reported_with_its_reason_and_without_paths(stand_in: StandIn) -> None:
    stand_in.set("fail-qwen_instruct", "ValueError: Free memory on device (3.1/47.4 GiB) is less; see /opt/models/config.json")
    with pytest.raises(SettingsError) as caught:
        start(stand_in)
    assert "vLLM's server of qwen_instruct ended during its start: ValueError: Free memory on device (3.1/47.4 GiB)" in str(caught.value)
    assert "/opt" not in str(caught.value)


def test_a_server_that_is_not_ready_in_time_is_ended(stand_in: StandIn) -> None:
    stand_in.set("hang")
    with pytest.raises(SettingsError, match=r"not ready within 1 seconds \(CHAT_ENGINE_START\)"):
        start(stand_in, timeout=1.0)
    assert not any(is_running(pid) for pair in stand_in.pids for pid in pair)


def test_the_start_is_logged_without_paths_and_requests_by_their_place_only(stand_in: StandIn) -> None:
    with capture_logs() as lines:
        server = start(stand_in)
        httpx.post(f"{server.url}/v1/completions", json={"prompt": [1], "max_tokens": 1}, trust_env=False)
        server.close()
    logged = [line for line in lines if line["event"] == "vllm"]
    place = {"model": "qwen_instruct", "where": "api_server.py:7", "event": "vllm"}
    assert logged == [
        place | {"log_level": "info", "text": "Loading weights from …/model.safetensors"},
        place | {"log_level": "error"},
    ]
    assert all(line["log_level"] == "debug" for line in lines if "canary" in str(line) or "secret-place" in str(line))


def test_the_server_gets_no_secrets(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUPABASE_SERVICE_ROLE_KEY", "JOB_CALLBACK_SECRET", "HF_TOKEN", "RUNPOD_AI_API_KEY", "VLLM_API_KEY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    start(stand_in).close()
    (started,) = stand_in.lines("arguments.jsonl")
    assert "canary" not in started["environment"].values()
    expected = {"CUDA_VISIBLE_DEVICES": "0", "VLLM_MAX_STOP_STRINGS": "12", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    assert expected.items() <= started["environment"].items()


def test_what_the_worker_relies_on_comes_after_the_operators_arguments(stand_in: StandIn) -> None:
    settings = stand_in.settings(chat_vllm_arguments="--dtype bfloat16 --enable-log-requests --host 0.0.0.0", chat_cache_gb=2.0)
    command = list(server_command(settings, Path("m"), "mine", 7, shares(settings, {"a": 100, "b": 300})["b"]))
    assert command[3:10] == ["--dtype", "auto", "--dtype", "bfloat16", "--enable-log-requests", "--host", "0.0.0.0"]
    after = command[10:]
    assert {"--no-enable-log-requests", "--no-enable-log-outputs", "--no-trust-remote-code"} <= set(after)
    values = {name: after[index + 1] for index, name in enumerate(after[:-1]) if name.startswith("--")}
    assert (values["--host"], values["--load-format"], values["--max-num-seqs"]) == ("127.0.0.1", "safetensors", "4")
    assert (values["--gpu-memory-utilization"], values["--kv-cache-memory-bytes"]) == ("0.675", str(2**30))


def test_chat_dtype_is_the_precision_of_vllm(stand_in: StandIn) -> None:
    command = list(server_command(stand_in.settings(chat_dtype="float16", chat_vllm_arguments=""), Path("m"), "mine", 7, Share(1.0)))
    assert command[3:5] == ["--dtype", "float16"]
    assert command.count("--dtype") == 1


def test_a_machine_without_vllm_is_told_so_before_the_start(tmp_path: Path) -> None:
    for python in (tmp_path / "none", Path("/bin/false")):
        with pytest.raises(SettingsError, match="CHAT_VLLM_PYTHON"):
            check_python(python)


def test_unreadable_arguments_are_reported() -> None:
    with pytest.raises(SettingsError, match="CHAT_VLLM_ARGUMENTS"):
        server_command(Settings(chat_vllm_arguments='--dtype "half'), Path("m"), "m", 1, Share(1.0))
