"""Nothing that writes by itself writes a secret: neither Python's own hooks nor a library's lines say more than what and where."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.doubles.processes import ROOT, clean_environment
from tests.privacy.unsolicited_output import CANARY, LOGGERS, OUTBURSTS

SAID = {
    "in_a_thread": '"event": "uncaught exception in a thread"',
    "in_a_finalizer": '"event": "unraisable exception"',
    "in_a_task_that_nobody_awaits": "asyncio: message redacted",
    "in_a_callback_of_the_loop": "asyncio: message redacted",
    "as_a_warning": '"category": "RuntimeWarning", "where": "module.py:7"',
    "by_libraries": "a_library_of_tomorrow: message redacted",
    "by_a_library_that_prints_records": "its.own: message redacted (unsolicited_output.py:",
    "by_a_request": "",
    "by_a_retry": "the connection failed",
    "by_our_own_mistake": '"error_type": "HTTPStatusError"',
    "by_a_dump_of_stacks": "by_a_dump_of_stacks",
    "uncaught": '"error_type": "HTTPStatusError", "where": "raise_for_status:',
}
"""What is said all the same, so that an operator knows."""

# What is in full where an operator asks for it, which also shows that there is something to hide.
IN_FULL = ("in_a_thread", "in_a_finalizer", "in_a_task_that_nobody_awaits", "as_a_warning", "by_libraries", "uncaught")


def burst_out(level: str) -> dict[str, str]:
    """What a process prints when it happens, on both streams."""
    command = [sys.executable, "-m", "tests.privacy.unsolicited_output", level]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False, timeout=100)
    printed = dict.fromkeys(OUTBURSTS, "")
    for stream in (done.stdout, done.stderr):
        for part in stream.split("=== ")[1:]:
            name, _, text = part.partition("\n")
            printed[name] += text
    return printed


@pytest.fixture(scope="module")
def printed() -> dict[str, str]:
    return burst_out("INFO")


def test_every_outburst_is_judged() -> None:
    assert list(SAID) == list(OUTBURSTS)


@pytest.mark.parametrize("name", SAID)
def test_what_bursts_out_is_said_without_its_text(printed: dict[str, str], name: str) -> None:
    assert SAID[name] in printed[name]
    assert CANARY not in printed[name]
    assert "Traceback" not in printed[name]


def test_every_library_is_heard_by_its_name(printed: dict[str, str]) -> None:
    assert [name for name in LOGGERS if f"{name}: message redacted" not in printed["by_libraries"]] == []


@pytest.mark.slow
def test_at_debug_the_text_is_there() -> None:
    in_full = burst_out("DEBUG")
    assert [name for name in IN_FULL if CANARY not in in_full[name]] == []
