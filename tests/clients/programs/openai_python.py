"""OpenAI's Python client. See `tests/clients/test_clients.py`."""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

from openai import APIError, BadRequestError, OpenAI, pydantic_function_tool
from pydantic import BaseModel

MESSAGES: Any = [{"role": "system", "content": "Name birds."}, {"role": "user", "content": "hello"}]
FIXED: dict[str, Any] = {"model": "qwen_instruct", "temperature": 0}


class Bird(BaseModel):
    """A bird."""

    name: Literal["heron", "swan"]
    wild: bool


class Place(BaseModel):
    """Looks at a place."""

    at: Literal["bay", "lake"]


def plain(client: OpenAI) -> dict[str, Any]:
    answer = client.chat.completions.create(messages=MESSAGES, max_completion_tokens=20, **FIXED)
    assert answer.usage is not None
    return {"text": answer.choices[0].message.content, "finish": answer.choices[0].finish_reason, "tokens": answer.usage.completion_tokens}


def streamed(client: OpenAI) -> dict[str, Any]:
    options: Any = {"include_usage": True}
    chunks = list(client.chat.completions.create(messages=MESSAGES, max_completion_tokens=20, stream=True, stream_options=options, **FIXED))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    (finish,) = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert chunks[-1].usage is not None
    return {"text": text, "finish": finish, "tokens": chunks[-1].usage.completion_tokens}


def structured(client: OpenAI) -> dict[str, Any]:
    answer = client.chat.completions.parse(messages=MESSAGES, response_format=Bird, **FIXED)
    parsed = answer.choices[0].message.parsed
    with client.chat.completions.stream(messages=MESSAGES, response_format=Bird, **FIXED) as stream:
        streamed = stream.get_final_completion().choices[0].message.parsed
    assert streamed == parsed
    assert parsed is not None
    return parsed.model_dump()


def tools(client: OpenAI) -> dict[str, Any]:
    answer = client.chat.completions.parse(
        messages=MESSAGES, tools=[pydantic_function_tool(Place, name="look")], tool_choice="required", **FIXED
    )
    message = answer.choices[0].message
    calls = list(message.tool_calls or ())
    parsed = calls[0].function.parsed_arguments
    assert isinstance(parsed, Place)
    results: Any = [{"role": "tool", "tool_call_id": each.id, "content": "a heron"} for each in calls]
    history: Any = [*MESSAGES, message, *results]
    followed = client.chat.completions.create(messages=history, tools=[pydantic_function_tool(Place, name="look")], max_tokens=20, **FIXED)
    return {"name": calls[0].function.name, "arguments": parsed.model_dump(), "followed": followed.choices[0].finish_reason}


def error(client: OpenAI) -> dict[str, Any]:
    try:
        client.chat.completions.create(messages=MESSAGES, **FIXED | {"seed": -1})
    except BadRequestError as failure:
        return {"status": failure.status_code, "message": str(failure)}
    raise AssertionError("no error")


def stream_error(client: OpenAI) -> dict[str, Any]:
    try:
        list(client.chat.completions.create(messages=MESSAGES, stream=True, **FIXED | {"seed": -1}))
    except APIError as failure:
        return {"message": str(failure)}
    raise AssertionError("no error")


def main(url: str) -> None:
    """Runs every scenario and prints its result."""
    with OpenAI(base_url=f"{url}/chat/openai/v1", api_key="any", max_retries=0, timeout=60) as client:
        scenarios = (plain, streamed, structured, tools, error, stream_error)
        json.dump({scenario.__name__: scenario(client) for scenario in scenarios}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
