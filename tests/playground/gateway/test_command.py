"""`python -m playground.gateway` says where it is, and leaves no process behind."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.doubles.processes import ROOT, clean_environment


@contextmanager
def gateway(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Runs the command until it has printed its last line."""
    command = [sys.executable, "-m", "playground.gateway", str(folder), "--output", str(folder / "out"), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith("Ctrl+C"):
                break
        yield process, lines
    finally:
        process.kill()
        process.communicate()


def workers_of(folder: Path) -> list[int]:
    """The processes whose working directory is the folder of logs."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(entry / "cwd")) == folder / "out" / "logs":
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def url_of(lines: list[str]) -> str:
    address = re.search(r"http://[\d.:]+", lines[0])
    assert address is not None
    return address.group()


def wait_for_a_worker(folder: Path) -> int:
    """Its process, which is listed once it has changed to its folder."""
    while not (found := workers_of(folder)):
        time.sleep(0.02)
    return found[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_gateway(tmp_path: Path, number: signal.Signals) -> None:
    with gateway(tmp_path, "--handlers", "sdxl", "--port", "0") as (process, _lines):
        worker = os.pidfd_open(wait_for_a_worker(tmp_path))
        process.send_signal(number)
        process.wait(60)
    with open(worker):  # readable once the process has ended
        assert select.select([worker], [], [], 60)[0], "the worker still runs"


def test_a_used_port_is_passed_over_and_beyond_loopback_a_key_is_made_and_required(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as used:
        port = used.getsockname()[1]
        with gateway(tmp_path, "--handlers", "sdxl", "--port", str(port), "--host", "0.0.0.0") as (_process, lines):
            key = next(line for line in lines if line.startswith("Authorization: ")).removeprefix("Authorization: ")
            assert not url_of(lines).endswith(f":{port}")
            url = f"{url_of(lines)}/v2/sdxl/health"
            assert httpx.get(url).status_code == 401
            assert httpx.get(url, headers={"Authorization": key}).status_code == 200


def test_an_address_that_cannot_be_bound_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "playground.gateway", str(tmp_path), "--output", str(tmp_path), "--host", "192.0.2.1"]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "Port 8000 of 192.0.2.1 cannot be used: Cannot assign requested address. Choose another one with --port.\n",
    )
