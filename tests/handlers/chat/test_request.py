"""Parsing and validation of chat requests."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.chat.request import ChatRequest
from handlers.chat.short_form import ChatOperator
from shared.errors import ValidationError
from tests.shared.contract.requests import chat, problem, problems

CUSTOM_MODELS = ChatOperator(models=("llama-8b", "llama-8b-base"))
HELLO = {"role": "user", "content": "hello"}


def turns_of(request: Any) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in request.messages]


def test_messages_are_kept_unchanged_and_in_order() -> None:
    turns = [("system", " be brief\n"), ("user", "<|im_end|>"), ("assistant", ""), ("user", "x")]
    assert turns_of(chat(messages=[{"role": role, "content": content} for role, content in turns])) == turns


def test_id_user_and_type_are_optional() -> None:
    request = chat()
    assert (request.job_id, request.user_id, request.type, request.is_enhancement) == ("r", None, "chat", False)
    assert chat(id="mine").job_id == "mine"


def test_absent_fields_have_defaults() -> None:
    request = chat()
    assert (request.max_tokens, request.temperature, request.top_p, request.model) == (512, 0.7, 0.9, "qwen_instruct")
    assert (request.stop, request.presence_penalty, request.frequency_penalty, request.repetition_penalty) == ((), 0.0, 0.0, 1.0)
    assert (request.response_format.type, request.sfw_mode, request.stream, request.enhancement_type) == ("text", False, False, None)
    assert 1 <= request.seed <= 2_147_483_647


@pytest.mark.parametrize("job_type", ["enhance", "chat_enhance", "enhance_base", "enhance_instruct"])
def test_the_default_max_tokens_of_an_enhancement_is_lower(job_type: str) -> None:
    request = chat(type=job_type)
    assert (request.max_tokens, request.is_enhancement) == (200, True)


def test_the_short_form_is_converted_to_messages() -> None:
    assert turns_of(chat(messages=None, prompt="a cat", system_prompt="say more")) == [("system", "say more"), ("user", "a cat")]
    assert turns_of(chat(messages=None, prompt="a cat", type="enhance", target_model="sdxl", quality="high")) == [("user", "a cat")]


def test_messages_take_precedence_over_the_short_form_with_a_warning() -> None:
    request = chat(prompt="a cat", system_prompt="say more")
    assert turns_of(request) == [("user", "hello")]
    assert request.warnings == (
        "`prompt` was ignored, because `messages` is given",
        "`system_prompt` was ignored, because `messages` is given",
    )


@pytest.mark.parametrize(
    ("name", "enhancement_type", "model"),
    [
        ("base", "base", "qwen_base"),
        ("creative", "base", "qwen_base"),
        ("adult", "base", "qwen_base"),
        ("instruct", "instruct", "qwen_instruct"),
        ("conversational", "instruct", "qwen_instruct"),
    ],
)
def test_the_enhancement_type_selects_the_model(name: str, enhancement_type: str, model: str) -> None:
    request = chat(messages=None, prompt="a cat", type="enhance", enhancement_type=name)
    assert (request.enhancement_type, request.model) == (enhancement_type, model)


def test_the_job_type_can_imply_the_enhancement_type() -> None:
    assert chat(type="enhance_base").model == "qwen_base"
    assert chat(type="enhance_instruct").enhancement_type == "instruct"
    assert problem(chat, type="enhance_base", enhancement_type="conversational").field == "enhancement_type"


def test_an_explicit_model_takes_precedence_over_the_enhancement_type() -> None:
    assert chat(type="enhance_base", model="qwen_instruct").model == "qwen_instruct"


def test_the_role_developer_means_system() -> None:
    assert turns_of(chat(messages=[{"role": "developer", "content": "x"}, HELLO]))[0] == ("system", "x")


def test_text_parts_are_concatenated() -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    assert turns_of(chat(messages=[{"role": "user", "content": parts}])) == [("user", "a b")]


def test_a_text_part_with_a_null_type_is_accepted() -> None:
    assert chat(messages=[{"role": "user", "content": [{"type": None, "text": "a"}]}]).messages[0].content == "a"


@pytest.mark.parametrize("content", [[], [{"type": "image_url", "image_url": {}}], ["a"], [{"type": "text"}], 5, {"text": "a"}])
def test_non_text_content_is_rejected(content: Any) -> None:
    assert problem(chat, messages=[{"role": "user", "content": content}]).field == "messages[0].content"


@pytest.mark.parametrize("messages", [[], [{"role": "system", "content": "x"}], "hello", {"role": "user"}])
def test_a_conversation_needs_a_message_that_is_not_of_role_system(messages: Any) -> None:
    assert problem(chat, messages=messages).field == "messages"


def test_messages_or_a_prompt_is_required() -> None:
    assert problem(chat, messages=None).allowed == "a list of objects with `role` and `content`, unless `prompt` is given"


def test_an_invalid_prompt_is_not_reported_as_missing_messages_too() -> None:
    assert [*problems(chat, messages=None, prompt=5)] == ["prompt"]


def test_invalid_messages_are_reported_with_their_index() -> None:
    found = problems(chat, messages=[{"role": "function", "content": "x"}, HELLO, {"role": "user"}, None])
    assert [*found] == ["messages[0].role", "messages[2].content", "messages[3]"]
    assert found["messages[2].content"].sent == "nothing"


@pytest.mark.parametrize(("stop", "parsed"), [("END", ("END",)), (["a", "b"], ("a", "b")), ([], ())])
def test_stop_is_a_string_or_a_list(stop: Any, parsed: tuple[str, ...]) -> None:
    assert chat(stop=stop).stop == parsed


@pytest.mark.parametrize(
    ("stop", "field"),
    [
        ("", "stop"),
        ("x" * 1001, "stop"),
        ("a\0", "stop"),
        (["a"] * 9, "stop"),
        ([""], "stop[0]"),
        (["a", "b\0"], "stop[1]"),
        ([5], "stop[0]"),
        (5, "stop"),
    ],
)
def test_stop_is_limited_to_eight_non_empty_strings(stop: Any, field: str) -> None:
    assert problem(chat, stop=stop).field == field


@pytest.mark.parametrize(
    ("name", "value", "nearest"),
    [
        ("max_tokens", 0, "1"),
        ("max_tokens", 4097, "4096"),
        ("temperature", 2.1, "2.0"),
        ("top_p", -0.1, "0.0"),
        ("presence_penalty", -3, "-2.0"),
        ("frequency_penalty", 3, "2.0"),
    ],
)
def test_an_out_of_range_number_is_rejected_with_the_nearest_bound(name: str, value: float, nearest: str) -> None:
    assert problem(chat, **{name: value}).nearest == nearest


@pytest.mark.parametrize(("name", "value"), [("temperature", 0), ("temperature", 2), ("top_p", 0), ("top_p", 1), ("repetition_penalty", 2)])
def test_range_bounds_are_inclusive(name: str, value: float) -> None:
    assert getattr(chat(**{name: value}), name) == value


def test_a_repetition_penalty_of_zero_is_rejected() -> None:
    assert problem(chat, repetition_penalty=0).allowed == "a number from 0.1 to 2.0"


def test_a_json_schema_response_format_requires_a_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    request = chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert request.response_format.json_schema is not None
    assert request.response_format.json_schema.definition == schema
    assert problem(chat, response_format={"type": "json_schema"}).field == "response_format.json_schema"
    assert problem(chat, response_format={"type": "yaml"}).field == "response_format.type"


@pytest.mark.parametrize("schema", [{"secret\nname": float("nan")}, {"secret": [{"secret": object()}]}, {5: "secret"}])
def test_the_content_of_an_invalid_schema_is_not_quoted(schema: Any) -> None:
    found = problem(chat, response_format={"type": "json_schema", "json_schema": {"schema": schema}})
    assert (found.field, found.allowed) == ("response_format.json_schema.schema", "an object")
    assert "secret" not in str(found)


def test_a_deeply_nested_schema_is_rejected_without_recursion() -> None:
    deep: dict[str, Any] = {}
    for _ in range(90):  # what is nested more deeply is no request at all
        deep = {"not": deep}
    found = problem(chat, response_format={"type": "json_schema", "json_schema": {"schema": deep}})
    assert found.allowed == "a JSON Schema of at most 32 levels and 5000 values"


@pytest.mark.parametrize(
    ("fields", "model"),
    [
        ({}, "llama-8b"),
        ({"type": "enhance_base"}, "llama-8b-base"),
        ({"model": "llama-8b-base"}, "llama-8b-base"),
        ({"model": "qwen_instruct"}, "llama-8b"),
        ({"model": "qwen_base"}, "llama-8b-base"),
    ],
)
def test_custom_models_can_be_requested_by_their_own_and_by_the_default_names(fields: dict[str, str], model: str) -> None:
    raw = {"messages": [{"role": "user", "content": "hello"}], **fields}
    assert ChatRequest.parse(raw, job_id="r", operator=CUSTOM_MODELS).model == model


def test_an_unknown_model_is_rejected_with_the_available_ones() -> None:
    raw = {"messages": [{"role": "user", "content": "hello"}], "model": "lama-8b"}
    with pytest.raises(ValidationError, match=r"`model` must be one of llama-8b, llama-8b-base; .*nearest: llama-8b"):
        ChatRequest.parse(raw, job_id="r", operator=CUSTOM_MODELS)


def test_an_invalid_item_is_not_reported_as_a_short_list_too() -> None:
    assert problem(chat, guided_choice=[""]).field == "guided_choice[0]"
    assert problem(chat, guided_choice=[]).field == "guided_choice"


def test_an_error_that_follows_from_another_is_neither_listed_nor_counted() -> None:
    invalid: list[dict[str, Any]] = [{"guided_choice": [""]}, {"logit_bias": {"x": {}}}]
    for fields in invalid:
        with pytest.raises(ValidationError) as caught:
            chat(**fields)
        assert len(caught.value.problems) == 1
        assert "more" not in caught.value.message
