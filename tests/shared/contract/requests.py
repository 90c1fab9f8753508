"""Valid requests, with changes, for tests."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.chat.request import ChatRequest
from handlers.sdxl.request import SdxlRequest
from handlers.wan.request import WanRequest
from shared.contract.request import Operator
from shared.errors import Problem, ValidationError

DEFAULT = Operator()


def sdxl(operator: Operator = DEFAULT, /, **changes: Any) -> SdxlRequest:
    return SdxlRequest.parse(
        {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": "a fox"} | changes, job_id="r", operator=operator
    )


def wan(operator: Operator = DEFAULT, /, **changes: Any) -> WanRequest:
    return WanRequest.parse({"id": "j", "user_id": "u", "type": "video_fast", "prompt": "a fox"} | changes, job_id="r", operator=operator)


def chat(operator: Operator = DEFAULT, /, **changes: Any) -> ChatRequest:
    return ChatRequest.parse({"messages": [{"role": "user", "content": "hello"}]} | changes, job_id="r", operator=operator)


def problems(parse: Any, **changes: Any) -> dict[str, Problem]:
    """Returns the problems of an invalid request by field."""
    with pytest.raises(ValidationError) as caught:
        parse(**changes)
    found = {problem.field: problem for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems), "a field is reported twice"
    return found


def problem(parse: Any, **changes: Any) -> Problem:
    """Returns the only problem of an invalid request."""
    (only,) = problems(parse, **changes).values()
    return only
