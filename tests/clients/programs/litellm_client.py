"""LiteLLM. See `tests/clients/test_clients.py`."""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import litellm
from pydantic import BaseModel

litellm.suppress_debug_info = True
MESSAGES: list[dict[str, Any]] = [{"role": "system", "content": "Name birds."}, {"role": "user", "content": "hello"}]
PARAMETERS = {"type": "object", "properties": {"at": {"enum": ["bay", "lake"]}}, "required": ["at"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "look", "description": "Looks at a place.", "parameters": PARAMETERS}}]


class Bird(BaseModel):
    """A bird."""

    name: Literal["heron", "swan"]
    wild: bool


def ask(url: str, **changes: Any) -> Any:
    given = {"model": "openai/qwen_instruct", "messages": MESSAGES, "temperature": 0, "num_retries": 0}
    return litellm.completion(api_base=f"{url}/chat/openai/v1", api_key="any", **given | changes)


def plain(url: str) -> dict[str, Any]:
    answer = ask(url, max_tokens=20)
    finish = answer.choices[0].finish_reason
    return {"text": answer.choices[0].message.content, "finish": finish, "tokens": answer.usage.completion_tokens}


def streamed(url: str) -> dict[str, Any]:
    chunks = list(ask(url, max_tokens=20, stream=True, stream_options={"include_usage": True}))
    whole: Any = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    return {"text": text, "finish": whole.choices[0].finish_reason, "tokens": whole.usage.completion_tokens}


def structured(url: str) -> dict[str, Any]:
    return Bird.model_validate_json(ask(url, response_format=Bird).choices[0].message.content).model_dump()


def tools(url: str) -> dict[str, Any]:
    message = ask(url, tools=TOOLS, tool_choice="required").choices[0].message
    chunks = list(ask(url, tools=TOOLS, tool_choice="required", stream=True))
    streamed: Any = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    first, *_ = streamed.choices[0].message.tool_calls
    assert first.function.arguments == message.tool_calls[0].function.arguments
    results = [{"role": "tool", "tool_call_id": each.id, "name": each.function.name, "content": "a heron"} for each in message.tool_calls]
    followed = ask(url, tools=TOOLS, messages=[*MESSAGES, message, *results], max_tokens=20)
    function = message.tool_calls[0].function
    return {"name": function.name, "arguments": json.loads(function.arguments), "followed": followed.choices[0].finish_reason}


def error(url: str) -> dict[str, Any]:
    try:
        ask(url, seed=-1)
    except litellm.BadRequestError as failure:
        return {"status": failure.status_code, "message": str(failure)}
    raise AssertionError("no error")


def stream_error(url: str) -> dict[str, Any]:
    try:
        list(ask(url, seed=-1, stream=True))
    except litellm.exceptions.MidStreamFallbackError as failure:
        return {"message": str(failure)}
    raise AssertionError("no error")


if __name__ == "__main__":
    scenarios = (plain, streamed, structured, tools, error, stream_error)
    json.dump({scenario.__name__: scenario(sys.argv[1]) for scenario in scenarios}, sys.stdout)
