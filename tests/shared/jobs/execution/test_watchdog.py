"""GracefulShutdown: the timer ends a process that hangs, with a non-zero exit code."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from tests.doubles.processes import clean_environment

HANGING_SHUTDOWN = """
import threading, time
from shared.jobs.execution.watchdog import GracefulShutdown

shutdown = GracefulShutdown(1.0, end=threading.Event().wait)
shutdown.start()
shutdown.start()
time.sleep(100)
print("still running")
"""
ANSWERED_JOB = """
import time
from shared.jobs.execution.watchdog import GracefulShutdown

shutdown = GracefulShutdown(2.0)
with shutdown.track_job(2.0):
    pass
time.sleep(5)
print("done")
"""


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=110, check=False)


def test_timer_ends_a_shutdown_that_hangs(tmp_path: Path) -> None:
    done = run(HANGING_SHUTDOWN, tmp_path)
    assert done.returncode == 1
    assert "still running" not in done.stdout
    assert "File " not in done.stderr, "the traceback of the timer is discarded"


def test_timer_is_disarmed_when_the_job_is_answered(tmp_path: Path) -> None:
    done = run(ANSWERED_JOB, tmp_path)
    assert (done.returncode, done.stdout) == (0, "done\n")
