"""OpenAI's client against a chat worker, through RunPod's `/openai/v1` route."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, BadRequestError, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.shared.serverless.conftest import WorkerHarness, start_worker

HELLO: Any = [{"role": "user", "content": "hello"}]
PLAIN: dict[str, Any] = {"model": "qwen_instruct", "messages": HELLO, "temperature": 0, "max_tokens": 60}


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[WorkerHarness]:
    environment = {"MODELS_DIR": str(tiny_models), "CHAT_STREAMING": "1", "JOB_CONCURRENCY": "3", "SFW_WORDS": "damn"}
    with start_worker(tmp_path_factory.mktemp("openai"), "handlers.chat.handler", **environment) as running:
        yield running


@pytest.fixture(scope="module")
def client(harness: WorkerHarness) -> Iterator[OpenAI]:
    with OpenAI(base_url=harness.runpod_api.openai_url, api_key="canary-openai-key", max_retries=0, timeout=60) as client:
        yield client


def ask(client: OpenAI, **changes: Any) -> ChatCompletion:
    answer = client.chat.completions.create(**PLAIN | changes)
    assert isinstance(answer, ChatCompletion)
    return answer


def stream(client: OpenAI, **changes: Any) -> list[ChatCompletionChunk]:
    return list(client.chat.completions.create(**PLAIN | {"stream": True} | changes))


def text_of(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def streamed_text(chunks: Sequence[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def rejection(client: OpenAI, **changes: Any) -> dict[str, Any]:
    with pytest.raises(BadRequestError) as caught:
        ask(client, **changes)
    body = caught.value.body
    assert isinstance(body, dict)
    return body


def test_response_is_a_chat_completion(client: OpenAI) -> None:
    answer = ask(client, max_tokens=7)
    assert (answer.object, answer.model, len(answer.choices)) == ("chat.completion", "qwen_instruct", 1)
    assert answer.id.startswith("chatcmpl-")
    (choice,) = answer.choices
    assert (choice.index, choice.message.role, choice.finish_reason) == (0, "assistant", "length")
    assert choice.message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 7
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 7
    assert answer.to_dict().keys() == {"id", "object", "created", "model", "choices", "usage"}


def test_chunks_add_up_to_the_completion(client: OpenAI) -> None:
    whole, chunks = ask(client), stream(client)
    assert streamed_text(chunks) == text_of(whole)
    assert {(chunk.object, chunk.id, chunk.created, chunk.model) for chunk in chunks} == {
        ("chat.completion.chunk", chunks[0].id, chunks[0].created, "qwen_instruct")
    }
    assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant", *[None] * (len(chunks) - 1)]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [*[None] * (len(chunks) - 1), "length"]
    assert all(chunk.usage is None for chunk in chunks)


def test_empty_answer_is_a_valid_stream(client: OpenAI) -> None:
    whole = text_of(ask(client))
    chunks = stream(client, stop=[whole[:3]])
    assert streamed_text(chunks) == ""
    assert (chunks[0].choices[0].delta.role, chunks[-1].choices[0].finish_reason) == ("assistant", "stop")


def test_stream_with_include_usage_ends_with_the_usage(client: OpenAI) -> None:
    chunks = stream(client, max_tokens=7, stream_options={"include_usage": True})
    usage = chunks[-1].usage
    assert chunks[-1].choices == []
    assert usage is not None
    assert (usage.completion_tokens, usage.total_tokens) == (7, usage.prompt_tokens + 7)
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_stream_is_sent_as_server_sent_events(harness: WorkerHarness, client: OpenAI) -> None:
    stream(client, max_tokens=7)
    pieces = harness.runpod_api.streamed(harness.runpod_api.taken[-1])
    assert all(isinstance(piece, str) and piece.startswith("data: ") and piece.endswith("\n\n") for piece in pieces)
    assert pieces[-1].endswith("data: [DONE]\n\n")


def test_model_list_names_the_served_models(client: OpenAI) -> None:
    models = list(client.models.list())
    assert sorted(model.id for model in models) == ["qwen_base", "qwen_instruct"]
    assert {model.object for model in models} == {"model"}
    for model in models:
        assert ask(client, model=model.id, max_tokens=2).model == model.id


def test_seed_determines_the_answer(client: OpenAI) -> None:
    one, same, other = (text_of(ask(client, temperature=1.5, top_p=1, seed=seed)) for seed in (7, 7, 8))
    assert one == same
    assert one != other


def test_answer_ends_before_a_stop_sequence(client: OpenAI) -> None:
    whole = text_of(ask(client))
    stopped = ask(client, stop=whole[9:12])
    assert text_of(stopped) == whole[: whole.index(whole[9:12])]
    assert stopped.choices[0].finish_reason == "stop"


def test_max_tokens_and_max_completion_tokens_are_accepted(client: OpenAI) -> None:
    for changes in ({"max_tokens": None, "max_completion_tokens": 5}, {"max_tokens": 5, "max_completion_tokens": 5}, {"max_tokens": 5}):
        usage = ask(client, **changes).usage
        assert usage is not None
        assert usage.completion_tokens == 5


def test_extension_fields_are_accepted(client: OpenAI) -> None:
    plain, other = text_of(ask(client)), text_of(ask(client, extra_body={"repetition_penalty": 1.9, "sfw_mode": True}))
    assert plain != other


def test_unknown_field_is_reported_as_a_warning(client: OpenAI) -> None:
    answer = ask(client, max_tokens=2, extra_body={"temprature": 5}, user="user-1")
    assert answer.to_dict()["warnings"] == ["`temprature` is not a known field and was ignored; did you mean `temperature`?"]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"n": 9}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f g"}}]}, "tools[0].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"functions": [{"name": "f"}]}, "functions"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]},
            "messages[0].content",
        ),
        ({"messages": [{"role": "function", "content": "x", "name": "f"}]}, "messages[0].role"),
        ({"max_tokens": None, "max_completion_tokens": 5000}, "max_completion_tokens"),
        ({"max_tokens": 4, "max_completion_tokens": 5}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"stop": ["a"] * 9}, "stop"),
        ({"seed": -1}, "seed"),
        ({"model": "gpt-5"}, "model"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
    ids=str,
)
def test_unsupported_parameter_is_rejected_by_name(client: OpenAI, changes: dict[str, Any], param: str) -> None:
    body = rejection(client, **changes)
    assert (body["type"], body["code"], body["param"]) == ("invalid_request_error", "validation_error", param)
    assert param in body["message"]


def test_context_overflow_is_rejected_with_openais_error_code(client: OpenAI) -> None:
    body = rejection(client, messages=[{"role": "user", "content": "word " * 5000}])
    assert (body["code"], body["type"]) == ("context_length_exceeded", "invalid_request_error")


def test_answer_follows_its_json_schema(client: OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "bird", "strict": True, "schema": {"enum": ["heron", "swan"]}}}
    whole, chunks = ask(client, response_format=form), stream(client, response_format=form)
    assert json.loads(text_of(whole)) in ("heron", "swan")
    assert streamed_text(chunks) == text_of(whole)
    assert whole.choices[0].finish_reason == "stop"


PARAMETERS = {"type": "object", "properties": {"at": {"enum": ["heron"]}}, "required": ["at"], "additionalProperties": False}
TOOL: Any = {"type": "function", "function": {"name": "look", "parameters": PARAMETERS}}


def test_tool_is_called_and_its_result_is_accepted(client: OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "look"}}
    answer = ask(client, tools=[TOOL], tool_choice=named, max_tokens=400)
    (choice,) = answer.choices
    calls: Any = choice.message.tool_calls
    (call,) = calls
    assert (choice.finish_reason, choice.message.content, call.function.name) == ("tool_calls", None, "look")
    assert json.loads(call.function.arguments)["at"] == "heron"
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "It flies."}
    followed = ask(client, tools=[TOOL], messages=[*HELLO, choice.message.to_dict(), result], max_tokens=4)
    assert "warnings" not in followed.to_dict()
    chunks = stream(client, tools=[TOOL], tool_choice=named, max_tokens=400)
    (streamed,) = [each for chunk in chunks for each in chunk.choices[0].delta.tool_calls or ()]
    assert streamed.function is not None
    assert (streamed.index, streamed.function.arguments) == (0, call.function.arguments)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_several_choices_have_log_probabilities_of_their_own(client: OpenAI) -> None:
    answer = ask(client, n=2, logprobs=True, top_logprobs=1, max_tokens=3, temperature=1, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert [len(entry.top_logprobs) for entry in choice.logprobs.content or ()] == [1, 1, 1]


def test_text_is_continued_without_a_template(client: OpenAI) -> None:
    body: dict[str, Any] = {"model": "qwen_instruct", "prompt": "a heron", "temperature": 0, "max_tokens": 6}
    whole = client.completions.create(**body, logprobs=1)
    assert (whole.object, whole.choices[0].finish_reason) == ("text_completion", "length")
    assert whole.choices[0].logprobs is not None
    assert len(whole.choices[0].logprobs.tokens or ()) == 6
    chunks = client.completions.create(**body, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


def test_unsupported_schema_is_rejected(client: OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    body = rejection(client, response_format=form)
    assert (body["code"], body["type"]) == ("validation_error", "invalid_request_error")
    assert "response_format" in body["param"]


def test_failed_stream_sends_an_error_event(harness: WorkerHarness, client: OpenAI) -> None:
    with pytest.raises(APIError, match="`temperature` must be a number from 0") as caught:
        stream(client, temperature=3)
    assert (caught.value.code, caught.value.param) == ("validation_error", "temperature")
    assert json.loads(harness.runpod_api.result(harness.runpod_api.taken[-1])["error"])["error"]["param"] == "temperature", (
        "RunPod gets the error as well"
    )


def test_unknown_route_is_rejected(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="v1/chat/completions"):
        client.embeddings.create(model="qwen_instruct", input="x", encoding_format="float")


def test_log_contains_no_key_and_no_conversation(harness: WorkerHarness, client: OpenAI) -> None:
    ask(client, messages=[{"role": "user", "content": "canary-word"}], max_tokens=2)
    rejection(client, messages=[{"role": "user", "content": "canary-word"}], max_tokens=0)
    assert "canary" not in harness.worker.log
