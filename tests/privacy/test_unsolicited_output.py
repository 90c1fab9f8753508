"""Output of Python's hooks and of library loggers is reduced to type and location, so that it contains no secret."""

from __future__ import annotations

import pytest

from tests.doubles.processes import ROOT, clean_environment, run_module
from tests.privacy.unsolicited_output import CANARY, LOGGERS, SOURCES

EXPECTED = {
    "in_a_thread": '"event": "uncaught exception in a thread"',
    "in_a_finalizer": '"event": "unraisable exception"',
    "in_an_unawaited_task": "asyncio: message redacted",
    "in_an_event_loop_callback": "asyncio: message redacted",
    "as_a_warning": '"category": "RuntimeWarning", "where": "module.py:7"',
    "by_libraries": "an_unknown_library: message redacted",
    "by_a_library_with_its_own_handler": "its.own: message redacted (unsolicited_output.py:",
    "by_a_request": "",
    "by_a_retry": "the connection failed",
    "by_logging_an_exception": '"error_type": "HTTPStatusError"',
    "by_faulthandler": "by_faulthandler",
    "uncaught": '"error_type": "HTTPStatusError", "where": "raise_for_status:',
}
"""The text that an operator still gets."""

# Printed in full at DEBUG, which also shows that the secret would have been printed.
IN_FULL = ("in_a_thread", "in_a_finalizer", "in_an_unawaited_task", "as_a_warning", "by_libraries", "uncaught")


def run_all(level: str) -> dict[str, str]:
    """Runs all sources in a subprocess and returns the output of each on both streams."""
    done = run_module("tests.privacy.unsolicited_output", level, folder=ROOT, environment=clean_environment())
    printed = dict.fromkeys(SOURCES, "")
    for stream in (done.stdout, done.stderr):
        for part in stream.split("=== ")[1:]:
            name, _, text = part.partition("\n")
            printed[name] += text
    return printed


@pytest.fixture(scope="module")
def printed() -> dict[str, str]:
    return run_all("INFO")


def test_every_source_has_an_expected_output() -> None:
    assert list(EXPECTED) == list(SOURCES)


@pytest.mark.parametrize("name", EXPECTED)
def test_unsolicited_output_is_reduced_to_type_and_location(printed: dict[str, str], name: str) -> None:
    assert EXPECTED[name] in printed[name]
    assert CANARY not in printed[name]
    assert "Traceback" not in printed[name]


def test_every_library_is_named(printed: dict[str, str]) -> None:
    assert [name for name in LOGGERS if f"{name}: message redacted" not in printed["by_libraries"]] == []


@pytest.mark.slow
def test_at_debug_the_full_text_is_printed() -> None:
    in_full = run_all("DEBUG")
    assert [name for name in IN_FULL if CANARY not in in_full[name]] == []
