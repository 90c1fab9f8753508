"""Runs a command that ends with the process that started it: `python guardian.py PARENT GRACE COMMAND …`. It needs no packages.

Processes that a killed command leaves behind would keep the GPU's memory: vLLM's engine survives its API server. The command gets a process
group of its own, and the whole group is killed when the command ends, after SIGTERM, or when the parent process has ended, however it has.
A pipe would not tell that: processes that the parent has forked keep it open. The command itself is also killed if the guardian is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from types import FrameType

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>
_POLL_INTERVAL = 0.1
_REAP_SECONDS = 5.0


def main(parent: int, grace: float, command: list[str]) -> int:
    """Writes the id of the command's process group as the first line of output, and runs the command.

    Args:
        parent: The id of the process that has started this one.
        grace: Seconds that the command has to end after SIGTERM.
        command: The command.

    Returns:
        Its exit status; 128 and the signal's number if a signal has ended it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what the command leaves behind becomes a child of this process
    asked = [False]

    def ask(_number: int, _frame: FrameType | None) -> None:
        asked[0] = True

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
    )
    os.write(1, f"{child.pid}\n".encode())
    while not _has_ended(child.pid) and not asked[0] and os.getppid() == parent:
        time.sleep(_POLL_INTERVAL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while not _has_ended(child.pid) and time.monotonic() < deadline:
        time.sleep(_POLL_INTERVAL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # the command is not reaped yet, so the id is still its own
    status = child.wait()
    _reap()
    return status if status >= 0 else 128 - status


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _reap() -> None:
    """Waits for the killed processes, so that the GPU is free when this process ends."""
    deadline = time.monotonic() + _REAP_SECONDS
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(_POLL_INTERVAL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
