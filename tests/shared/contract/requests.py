"""Requests to read in tests: valid but for what a test changes."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.chat.request import ChatRequest
from handlers.sdxl.request import SdxlRequest
from handlers.wan.request import WanRequest
from shared.contract.request import Operator
from shared.errors import Problem, ValidationError

NOBODY = Operator()


def sdxl(operator: Operator = NOBODY, /, **changes: Any) -> SdxlRequest:
    return SdxlRequest.parse(
        {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": "a fox"} | changes, job_id="r", operator=operator
    )


def wan(operator: Operator = NOBODY, /, **changes: Any) -> WanRequest:
    return WanRequest.parse({"id": "j", "user_id": "u", "type": "video_fast", "prompt": "a fox"} | changes, job_id="r", operator=operator)


def chat(operator: Operator = NOBODY, /, **changes: Any) -> ChatRequest:
    return ChatRequest.parse({"messages": [{"role": "user", "content": "hello"}]} | changes, job_id="r", operator=operator)


def problems(ask: Any, **changes: Any) -> dict[str, Problem]:
    """What is wrong with a request, by the field that is blamed."""
    with pytest.raises(ValidationError) as caught:
        ask(**changes)
    found = {problem.field: problem for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems), "a field is blamed twice"
    return found


def problem(ask: Any, **changes: Any) -> Problem:
    """The one thing that is wrong with a request."""
    (only,) = problems(ask, **changes).values()
    return only
