"""A request's `traceparent` is that of W3C Trace Context; a malformed one is ignored."""

from __future__ import annotations

from typing import Any

import pytest

from shared.contract.request import identify
from shared.trace_context import TraceContext, parse_traceparent
from tests.shared.contract.requests import problem, sdxl

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
MALFORMED = [
    "",
    TRACEPARENT.upper(),
    f" {TRACEPARENT}",
    f"{TRACEPARENT}\n",
    f"{TRACEPARENT}-",
    f"{TRACEPARENT}-00",
    f"ff-{TRACE}-{PARENT}-01",
    f"0-{TRACE}-{PARENT}-01",
    f"00-{TRACE[1:]}-{PARENT}-01",
    f"00-{TRACE}0-{PARENT}-01",
    f"00-{TRACE}-{PARENT[1:]}-01",
    f"00-{TRACE}-{PARENT}-1",
    f"00-{TRACE}-{PARENT}-0g",
    f"00-{'0' * 32}-{PARENT}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00_{TRACE}_{PARENT}_01",
    f"01-{TRACE}-{PARENT}-01.what",
    "٠٠" + TRACEPARENT[2:],
    "00-" + "a" * 10_000,
]


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("ff", True)])
def test_a_traceparent_is_parsed_and_passed_on_with_the_flag_that_is_known(flags: str, sampled: bool) -> None:
    found = parse_traceparent(f"00-{TRACE}-{PARENT}-{flags}")
    assert found == TraceContext(TRACE, PARENT, sampled)
    assert found.traceparent == f"00-{TRACE}-{PARENT}-{'01' if sampled else '00'}"


@pytest.mark.parametrize("rest", ["", "-", "-what the future is going to be"])
def test_a_later_version_is_read_as_far_as_it_is_known(rest: str) -> None:
    assert parse_traceparent(f"cc-{TRACE}-{PARENT}-01{rest}") == TraceContext(TRACE, PARENT, True)


@pytest.mark.parametrize("malformed", MALFORMED)
def test_a_malformed_traceparent_is_ignored_with_a_warning(malformed: str) -> None:
    request = sdxl(traceparent=malformed)
    assert request.traceparent is None
    assert request.warnings == ("`traceparent` was ignored, because it is not one of W3C Trace Context",)
    assert identify({"id": "j", "traceparent": malformed}, job_id="r").trace is None


@pytest.mark.parametrize("wrong", [5, True, ["a"], {}, f"{TRACEPARENT}\x00", "\ud800"])
def test_a_traceparent_that_is_no_text_is_rejected(wrong: Any) -> None:
    assert problem(sdxl, traceparent=wrong).field == "traceparent"
    assert identify({"id": "j", "traceparent": wrong}, job_id="r").trace is None


def test_the_trace_of_an_invalid_request_is_known() -> None:
    assert sdxl(traceparent=TRACEPARENT).warnings == ()
    assert identify({"id": 5, "traceparent": TRACEPARENT}, job_id="r").trace == TraceContext(TRACE, PARENT, True)


def test_a_request_without_a_traceparent_has_no_trace() -> None:
    assert sdxl().traceparent is None
    assert identify({"id": "j"}, job_id="r").trace is None
