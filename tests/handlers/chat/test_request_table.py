"""The table of chat fields, row by row: invalid values in both forms, the field that is reported, and null as absent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from handlers.chat.openai.request import OPENAI_FIELDS
from handlers.chat.request import ChatRequest
from handlers.chat.short_form import ChatOperator
from shared.contract.field_location import field_locations
from shared.errors import Problem, ValidationError

HELLO = [{"role": "user", "content": "hello"}]
NOT_A_NUMBER: tuple[Any, ...] = ("1", True, [1], {}, math.nan, math.inf, -math.inf)
NOT_AN_INTEGER: tuple[Any, ...] = (*NOT_A_NUMBER, 1.5)
NOT_TEXT: tuple[Any, ...] = (5, True, ["a"], {}, "a\x00b", "\ud800")
NOT_A_BOOLEAN: tuple[Any, ...] = ("true", 1, 0, "no", [])


def turn(role: Any = "user", content: Any = "hello") -> dict[str, Any]:
    return {"role": role, "content": content}


INVALID: Mapping[str, Sequence[Any]] = {
    "id": ("", "a b", "a/b", "../x", "x" * 129, 5, True),
    "user_id": ("", "a b", "a/b", "../x", "x" * 129, 5),
    "callback_url": ("http://elsewhere.example/x", "https://elsewhere.example/x", "file:///etc/passwd", 5, ""),
    "traceparent": (5, True, ["a"], {}),
    "type": ("talk", "CHAT", "", 5, True, ["chat"]),
    "prompt": ("", *NOT_TEXT),
    "system_prompt": NOT_TEXT,
    "enhancement_type": ("best", "", 5, True),
    "target_model": ("sd3", "", 5),
    "quality": NOT_TEXT,
    "messages": (
        [], {}, "hello", 5, True, [turn("system")], [turn("system"), turn("developer")],
        [None], ["hello"], [[]], [{}], [turn("tool")], [turn("User")], [turn("")], [turn(5)], [turn(None)], [{"content": "x"}],
        [{"role": "user"}], [turn(content=None)], [turn(content=5)], [turn(content=[])], [turn(content={})], [turn(content=["a"])],
        [turn(content=[{"type": "image_url", "image_url": {"url": "x"}}])], [turn(content=[{"type": "text"}])],
        [turn("tool", "x")], [turn() | {"tool_call_id": "c"}], [turn() | {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}],
        [turn("assistant") | {"tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]}], [turn("assistant") | {"tool_calls": 5}],
        [turn(content="\x00")], [turn(content="\ud800")], [turn(), turn("assistant", 5)],
    ),
    "max_tokens": (0, -1, 4097, 10**30, *NOT_AN_INTEGER),
    "temperature": (-0.1, 2.1, *NOT_A_NUMBER),
    "top_p": (-0.1, 1.1, *NOT_A_NUMBER),
    "model": ("gpt-5", "", "Qwen/Qwen2.5-7B", "../qwen", 5, True),
    "stop": ("", 5, True, {}, ["a"] * 9, [""], [5], [None], ["a", "b\x00"], "x" * 1001),
    "seed": (-1, 2**31, *NOT_AN_INTEGER),
    "presence_penalty": (-2.1, 2.1, *NOT_A_NUMBER),
    "frequency_penalty": (-2.1, 2.1, *NOT_A_NUMBER),
    "repetition_penalty": (0, -1, 2.1, *NOT_A_NUMBER),
    "response_format": (
        "json", 5, [], {}, {"type": "yaml"}, {"type": 5}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {}},
        {"type": "json_schema", "json_schema": {"schema": 5}}, {"type": "json_schema", "json_schema": {"schema": {"a": math.nan}}},
    ),
    "top_k": (-2, 10**9, *NOT_AN_INTEGER),
    "min_p": (-0.1, 1.1, *NOT_A_NUMBER),
    "min_tokens": (-1, 4097, 600, *NOT_AN_INTEGER),
    "stop_token_ids": (5, "a", {}, [-1], [True], ["1"], [1.5], [1] * 65),
    "logit_bias": (5, "a", [], {"a": 1}, {"-1": 1}, {"1": 101}, {"1": "x"}, {"1": None}, {"1": True}, {"12345678": 1}),
    "guided_json": (5, [], "{", "5", {"a": math.nan}),
    "guided_choice": ([], "a", 5, {}, [""], [5], ["a"] * 501),
    "guided_regex": ("", 5, [], {}, "a" * 4001),
    "structured_outputs": (5, [], "a", {"choice": []}, {"regex": ""}, {"json": 5}, {"grammar": "x"}, {"structural_tag": {}}),
    "continue_final_message": (*NOT_A_BOOLEAN, True),
    "completion_prompt": ("", *NOT_TEXT),
    "n": (0, -1, 9, *NOT_AN_INTEGER),
    "logprobs": NOT_A_BOOLEAN,
    "top_logprobs": (-1, 21, 3, *NOT_AN_INTEGER),
    "tools": (
        5, "f", {}, [5], [{}], [{"type": "function"}], [{"type": "x", "function": {"name": "f"}}], [{"type": "function", "function": {}}],
        [{"type": "function", "function": {"name": "a b"}}], [{"type": "function", "function": {"name": "f", "parameters": 5}}],
        [{"type": "function", "function": {"name": "f"}}] * 2,
    ),
    "tool_choice": (5, "any", "required", [], {}, {"type": "function"}, {"type": "function", "function": {"name": "f"}}),
    "parallel_tool_calls": NOT_A_BOOLEAN,
    "sfw_mode": NOT_A_BOOLEAN,
    "stream": NOT_A_BOOLEAN,
}  # fmt: skip
ROWS = [pytest.param(name, value, id=f"{name}={str(value)[:40]!r}") for name, values in INVALID.items() for value in values]
OPENAI_NAMES = {**{field: name for name, field in OPENAI_FIELDS.items()}, "max_tokens": "max_completion_tokens"}


def problems(raw: object) -> Sequence[Problem]:
    with pytest.raises(ValidationError) as caught:
        ChatRequest.parse(raw, job_id="r", operator=ChatOperator())
    assert caught.value.code == "VALIDATION_ERROR"
    assert not caught.value.retryable
    return caught.value.problems


def reports_only(found: Sequence[Problem], field: str) -> bool:
    return bool(found) and all(problem.field.startswith(field) for problem in found)


def test_the_table_covers_every_field() -> None:
    assert set(INVALID) == {location.name for location in field_locations(ChatRequest).values()} - {"job_id"}


@pytest.mark.parametrize(("name", "value"), ROWS)
def test_an_invalid_value_is_rejected_and_only_its_field_is_reported(name: str, value: Any) -> None:
    other = {"prompt": "hello"} if name in ("prompt", "system_prompt", "completion_prompt") else {"messages": HELLO}
    found = problems(other | {name: value})
    assert reports_only(found, name), found
    assert "hello" not in str([str(problem) for problem in found])


@pytest.mark.parametrize(("name", "value"), [row for row in ROWS if row.values[0] in OPENAI_NAMES])
def test_the_same_value_is_rejected_in_openais_form_under_openais_name(name: str, value: Any) -> None:
    body = {"model": "qwen_instruct", "messages": HELLO} | {OPENAI_NAMES[name]: value}
    found = problems({"openai_route": "/v1/chat/completions", "openai_input": body})
    assert reports_only(found, OPENAI_NAMES[name]), found


@pytest.mark.parametrize("name", [name for name in INVALID if name not in ("prompt", "messages")])
def test_null_means_absent(name: str) -> None:
    given, absent = ({"messages": HELLO, "seed": 7} | extra for extra in ({name: None}, {}))
    one, other = (ChatRequest.parse(raw, job_id="r").model_dump(exclude={"seed"}) for raw in (given, absent))
    assert one == other


def test_an_integer_is_accepted_for_a_float() -> None:
    request = ChatRequest.parse(
        {"messages": HELLO, "temperature": 1, "top_p": 0, "presence_penalty": -2, "repetition_penalty": 1}, job_id="r"
    )
    assert (request.temperature, request.top_p, request.presence_penalty, request.repetition_penalty) == (1.0, 0.0, -2.0, 1.0)


def test_all_problems_of_a_request_are_reported_at_once() -> None:
    invalid = {
        "messages": [turn("tool")],
        "temperature": 3,
        "max_tokens": 0,
        "stop": [""],
        "seed": -1,
        "sfw_mode": "yes",
        "model": "x",
    }
    assert {problem.field.partition("[")[0] for problem in problems(invalid)} == set(invalid)


def test_all_problems_of_openais_form_are_reported_at_once() -> None:
    invalid = {"n": 9, "tools": [{}], "logprobs": 5, "temperature": 3, "stop": [""], "stream_options": 5, "best_of": 3}
    found = problems({"openai_route": "/v1/chat/completions", "openai_input": {"messages": HELLO, "stream": True} | invalid})
    assert {problem.field.partition("[")[0] for problem in found} == {*invalid, "model"}


@pytest.mark.parametrize("raw", [None, [], "hello", 5, {"messages": HELLO, "config": 5}, {"messages": HELLO, "metadata": "x"}])
def test_input_that_is_not_a_request_is_rejected(raw: object) -> None:
    assert problems(raw)
