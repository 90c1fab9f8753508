"""Parsing of requests in OpenAI's form."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as ChatParameters
from openai.types.completion_create_params import CompletionCreateParamsStreaming as TextParameters

from handlers.chat.openai.request import CHAT_ROUTE, OPENAI_REFUSED, TEXT_ROUTE, OpenAIResponseOptions
from handlers.chat.request import ChatRequest
from shared.contract.request import identify
from shared.errors import ValidationError
from tests.shared.contract.requests import problem
from tests.shared.contract.test_anything import JSON

HELLO = {"role": "user", "content": "hello"}


def job(**changes: Any) -> dict[str, Any]:
    return {"openai_route": "/v1/chat/completions", "openai_input": {"model": "qwen_instruct", "messages": [HELLO]} | changes}


def ask(**changes: Any) -> ChatRequest:
    return ChatRequest.parse(job(**changes), job_id="r")


def test_both_forms_parse_to_the_same_request() -> None:
    fields: dict[str, Any] = {
        "messages": [{"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]}, HELLO],
        "model": "qwen_base", "temperature": 0.3, "top_p": 0.5, "stop": "END", "seed": 7, "presence_penalty": 1, "frequency_penalty": -1,
        "response_format": {"type": "json_object"}, "repetition_penalty": 1.1, "sfw_mode": True, "stream": True,
    }  # fmt: skip
    assert ask(max_completion_tokens=9, **fields) == ChatRequest.parse(fields | {"max_tokens": 9}, job_id="r")


def test_defaults_are_this_contracts_and_not_openais() -> None:
    request, native = ask(seed=7), ChatRequest.parse({"messages": [HELLO], "seed": 7}, job_id="r")
    assert request == native
    assert (request.temperature, request.top_p, request.max_tokens) == (0.7, 0.9, 512)


def test_a_request_in_openais_form_has_no_user_and_no_callback() -> None:
    identity = identify(job(user="u", metadata={"user_id": "u"}, callback_url="https://x.example/"), job_id="r")
    assert (identity.job_id, identity.user_id, identity.callback_url) == ("r", None, None)
    assert ask(callback_url="https://x.example/").callback_url is None


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in OPENAI_REFUSED.items() for value in (None, *values)])
def test_values_without_effect_are_accepted(name: str, value: Any) -> None:
    assert ask(**{name: value}).warnings == ()


@pytest.mark.parametrize("name", OPENAI_REFUSED)
@pytest.mark.parametrize("value", [2, 0.5, "auto", ["x"], {"x": 1}])
def test_unsupported_parameters_are_rejected(name: str, value: Any) -> None:
    found = problem(ask, **{name: value})
    assert found.field == name
    assert "omitted" in found.allowed


@pytest.mark.parametrize("route", [CHAT_ROUTE, TEXT_ROUTE])
def test_every_parameter_of_openais_client_is_supported_rejected_or_ignored_by_name(route: str) -> None:
    kind = ChatParameters if route == CHAT_ROUTE else TextParameters
    for name in kind.__required_keys__ | kind.__optional_keys__:
        body = {"model": "qwen_instruct", **({"messages": [HELLO]} if route == CHAT_ROUTE else {"prompt": "a"}), name: None}
        assert named_by_parsing({"openai_route": route, "openai_input": body}) <= {name}


def named_by_parsing(raw: dict[str, Any]) -> set[str]:
    """Returns the fields that are rejected, or the warnings."""
    try:
        return set(ChatRequest.parse(raw, job_id="r").warnings)
    except ValidationError as error:
        return {problem.field for problem in error.problems}


@pytest.mark.parametrize("prompt", [None, 5, [], ["a", "b"], [["a"]], [1, 2], {"a": 1}, ""])
def test_a_text_completion_without_exactly_one_text_is_rejected_by_name(prompt: Any) -> None:
    raw = {"openai_route": TEXT_ROUTE, "openai_input": {"model": "qwen_instruct", "prompt": prompt}}
    assert named_by_parsing(raw) == {"prompt"}


def test_what_openais_client_says_about_a_schema_is_accepted_without_a_warning() -> None:
    schema = {"name": "bird", "description": "A bird.", "strict": True, "schema": {"type": "object"}}
    assert ask(response_format={"type": "json_schema", "json_schema": schema}).warnings == ()


@pytest.mark.parametrize("name", ["user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_options", "service_tier"])
def test_parameters_without_influence_are_accepted_without_a_warning(name: str) -> None:
    assert ask(**{name: "x"}).warnings == ()


def test_an_unknown_parameter_gives_a_warning_with_the_nearest_name() -> None:
    assert ask(temprature=0, foo=1).warnings == (
        "`temprature` is not a known field and was ignored; did you mean `temperature`?",
        "`foo` is not a known field and was ignored",
    )


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (5, "stream_options"),
        ([], "stream_options"),
        ({"include_usage": 1}, "stream_options.include_usage"),
        ({"continuous_usage_stats": True}, "stream_options.continuous_usage_stats"),
    ],
)
def test_invalid_stream_options_are_rejected(options: Any, field: str) -> None:
    assert problem(ask, stream=True, stream_options=options).field == field


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"openai_route": "/v1/embeddings", "openai_input": {}}, "openai_route"),
        ({"openai_route": None, "openai_input": {}}, "openai_route"),
        ({"openai_route": ["/v1/chat/completions"]}, "openai_route"),
        ({"openai_route": "/v1/chat/completions"}, "openai_input"),
        ({"openai_route": "/v1/chat/completions", "openai_input": [1]}, "openai_input"),
    ],
)
def test_unsupported_routes_and_bodies_are_rejected(raw: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatRequest.parse(raw, job_id="r")
    assert [problem.field for problem in caught.value.problems] == [field]


@given(
    route=st.sampled_from(["/v1/chat/completions", "/v1/models"]) | JSON,
    body=JSON
    | st.dictionaries(
        st.sampled_from([*OPENAI_REFUSED, "messages", "stop", "stream_options", "max_tokens", "max_completion_tokens", "model", "stream"]),
        JSON,
    ),
)
def test_any_input_is_parsed_or_rejected_with_a_message(route: Any, body: Any) -> None:
    raw = {"openai_route": route, "openai_input": body}
    assert OpenAIResponseOptions.of(raw) is not None
    try:
        messages = ChatRequest.parse(raw, job_id="r").warnings
    except ValidationError as error:
        messages = (error.message, *map(str, error.problems))
    assert all(message.isprintable() and len(message) < 10_000 for message in messages)


SENT_BACK: dict[str, Any] = {
    "role": "assistant", "content": "Hi.", "refusal": None, "tool_calls": None, "function_call": None, "audio": None, "annotations": [],
}  # fmt: skip
"""A message as the official client returns it from a completion of this worker."""


@pytest.mark.parametrize("form", ["openai", "own"])
def test_a_message_of_an_earlier_completion_is_accepted_without_a_warning(form: str) -> None:
    messages = [HELLO, SENT_BACK, HELLO]
    request = ask(messages=messages) if form == "openai" else ChatRequest.parse({"messages": messages}, job_id="r")
    assert request.warnings == ()
    assert request.messages[1].content == "Hi."


@pytest.mark.parametrize("name", ["function_call", "audio"])
def test_a_message_of_an_unsupported_kind_is_rejected_by_name(name: str) -> None:
    found = problem(ask, messages=[HELLO, SENT_BACK | {name: [{"id": "x"}]}, HELLO])
    assert found.field == "messages[1]"
    assert name in found.allowed


def test_vllms_parameters_are_the_same_in_both_forms() -> None:
    fields: dict[str, Any] = {
        "top_k": 5, "min_p": 0.1, "min_tokens": 3, "stop_token_ids": [7], "logit_bias": {"5": -1}, "seed": 7,
        "structured_outputs": {"choice": ["yes", "no"]},
    }  # fmt: skip
    assert ask(**fields) == ChatRequest.parse(fields | {"messages": [HELLO]}, job_id="r")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_maximum_length_has_two_names_in_both_forms(name: str) -> None:
    own = ChatRequest.parse({"messages": [HELLO], name: 9}, job_id="r")
    assert own.max_tokens == ask(**{name: 9}).max_tokens == 9
    assert own.warnings == ()


def test_only_one_constraint_may_be_given() -> None:
    found = problem(ask, guided_json={"type": "string"}, response_format={"type": "json_object"})
    assert str(found) == "`response_format` cannot be combined with `guided_json`"


def test_skip_special_tokens_cannot_be_switched_off() -> None:
    assert ask(skip_special_tokens=True).warnings == ()
    assert problem(ask, skip_special_tokens=False).field == "skip_special_tokens"
