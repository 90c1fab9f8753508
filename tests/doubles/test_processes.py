"""A forked worker behaves as a fresh one."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from playground.fork_server import Request
from tests.doubles.processes import ROOT, can_fork, clean_environment, run_module, start_module

REPORT = """
    import json, os, sys, tempfile, threading
    sys.stderr.write("to standard error")
    print(json.dumps({
        "name": __name__, "main": sys.modules["__main__"].__dict__ is globals(), "arguments": sys.argv[1:],
        "environment": {**os.environ, "LC_CTYPE": ""},
        "folder": os.getcwd(), "path": sys.path, "session": os.getsid(0) == os.getpid(), "input": sys.stdin.read(),
        "temporary": tempfile.gettempdir(), "threads": threading.active_count(), "files": len(os.listdir("/proc/self/fd")),
        "sdk": "runpod" in sys.modules, "flags": list(sys.flags), "encoding": sys.stdout.encoding,
    }))
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs code as a module, forked or in a fresh interpreter."""

    def run(code: str, *arguments: str, fresh: bool = False, timeout: float = 60.0, **variables: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "code_under_test.py").write_text(textwrap.dedent(code))
        environment = clean_environment(**variables)
        return run_module("code_under_test", *arguments, folder=tmp_path, environment=environment, timeout=timeout, fresh=fresh)

    return run


def test_fork_has_the_same_state_as_a_fresh_process(run: Run, tmp_path: Path) -> None:
    reports: list[dict[str, Any]] = []
    for fresh in (False, True):
        done = run(REPORT, "--one", "two words", fresh=fresh, TMPDIR=str(tmp_path), ONLY_HERE="ü")
        assert done.returncode == 0, done.stderr
        assert done.stderr == "to standard error"
        reports.append(json.loads(done.stdout))
    forked, started = reports
    assert forked == started
    # An interpreter may set LC_CTYPE itself.
    assert forked["environment"] == clean_environment(TMPDIR=str(tmp_path), ONLY_HERE="ü", LC_CTYPE="")
    assert (forked["arguments"], forked["temporary"]) == (["--one", "two words"], str(tmp_path))
    assert forked["sdk"] is False


@pytest.mark.parametrize(
    ("code", "exit_code", "error"),
    [
        ("", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('why')", 1, "why\n"),
        ("raise ValueError('why')", 1, "ValueError: why\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM); signal.pause()", -signal.SIGTERM, ""),
        ("import atexit, os; atexit.register(os._exit, 5)", 5, ""),
        ("import threading, time, os; threading.Thread(target=lambda: (time.sleep(0.1), os._exit(7))).start()", 7, ""),
    ],
)
def test_exit_codes_are_those_of_an_interpreter(run: Run, code: str, exit_code: int, error: str) -> None:
    done = run(code)
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert done.stderr.endswith(error)
    assert bool(done.stderr) == bool(error)


def test_forks_draw_different_random_numbers(run: Run) -> None:
    code = "import random, uuid, numpy; print(random.random(), uuid.uuid4(), numpy.random.random(), numpy.random.default_rng().random())"
    first, second = (run(code).stdout.split() for _ in range(2))
    assert [same for same in first if same in second] == []


def test_libraries_and_handlers_are_imported_already(run: Run) -> None:
    names = ("torch", "diffusers", "transformers", "peft", "handlers.sdxl.recipe", "handlers.wan.recipe", "handlers.chat.recipe")
    assert run(f"import sys; print([name for name in {names} if name not in sys.modules])").stdout == "[]\n"


def test_a_process_that_takes_too_long_is_killed(run: Run) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run("import signal; signal.pause()", timeout=0.1)


@pytest.mark.parametrize("variable", ["PYTHONHASHSEED", "MALLOC_ARENA_MAX", "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "ALLOW_DOWNLOADS"])
def test_variables_that_are_read_at_startup_demand_a_fresh_process(variable: str) -> None:
    assert not can_fork(clean_environment(**{variable: "7"}))
    assert can_fork(clean_environment(MODELS_DIR="7"))


def test_a_killed_process_reports_its_signal(tmp_path: Path) -> None:
    (tmp_path / "code_under_test.py").write_text("import signal; signal.pause()")
    with (tmp_path / "log").open("w") as log:
        process = start_module("code_under_test", folder=tmp_path, environment=clean_environment(), output=log.fileno())
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    process.kill()
    assert process.wait(60) == process.poll() == -signal.SIGKILL


CLIENT = """
import os, signal, sys
from pathlib import Path
from tests.doubles.processes import clean_environment, start_module
with open(os.devnull, "w") as log:
    print(start_module("code_under_test", folder=Path(sys.argv[1]), environment=clean_environment(), output=log.fileno()).pid, flush=True)
signal.pause()
"""


@pytest.mark.slow
def test_a_fork_ends_with_a_client_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "code_under_test.py").write_text("import signal; signal.pause()")
    command = [sys.executable, "-c", CLIENT, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        fork = os.pidfd_open(int(client.stdout.readline()))
        client.kill()
    assert select.select([fork], [], [], 60.0)[0], "it has ended"
    os.close(fork)


@pytest.mark.slow
def test_a_request_of_a_client_that_has_been_killed_is_not_run(run: Run, tmp_path: Path) -> None:
    """It was killed while the fork server imported."""
    run("")  # from now on, orphans are children of this process
    (tmp_path / "code_under_test.py").write_text("print('it runs', flush=True)")
    killed = subprocess.Popen(["true"])
    killed.wait()
    client, server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "playground.fork_server", str(server.fileno()), str(killed.pid)]
    reader, writer = os.pipe()
    with client, subprocess.Popen(command, cwd=ROOT, env=clean_environment(), pass_fds=[server.fileno()]), open(reader) as output:
        server.close()
        request = Request("code_under_test", (), str(tmp_path), clean_environment())
        socket.send_fds(client, [request.encode()], [writer] * 3)
        os.close(writer)
        assert client.recv(32), "the process id of the fork"
        client.close()
        assert output.read() == ""


def test_threads_of_a_fork_can_start_to_use_torch_at_the_same_time(run: Run) -> None:
    """Without a new thread pool, one fork in 20 fails."""
    code = """
        import threading, torch
        barrier, failures = threading.Barrier(16), []
        def multiply():
            barrier.wait()
            try:
                torch.ones(300, 300) @ torch.ones(300, 300)
            except RuntimeError as error:
                failures.append(error)
        threads = [threading.Thread(target=multiply) for _ in range(16)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        print(failures)
    """
    assert {run(code).stdout for _ in range(20)} == {"[]\n"}
