"""LangChain's client. See `tests/clients/test_clients.py`."""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import APIError
from pydantic import BaseModel

MESSAGES: list[Any] = [SystemMessage("Name birds."), HumanMessage("hello")]


class Bird(BaseModel):
    """A bird."""

    name: Literal["heron", "swan"]
    wild: bool


def look(at: Literal["bay", "lake"]) -> str:
    """Looks at a place."""
    return f"a heron at the {at}"


LOOK = tool(look)


def model(url: str, **changes: Any) -> Any:
    given = {"model": "qwen_instruct", "temperature": 0, "base_url": f"{url}/chat/openai/v1", "api_key": "any", "max_retries": 0}
    return ChatOpenAI(**given | changes)


def plain(url: str) -> dict[str, Any]:
    answer = model(url, max_tokens=20).invoke(MESSAGES)
    finish = answer.response_metadata["finish_reason"]
    return {"text": answer.content, "finish": finish, "tokens": answer.usage_metadata["output_tokens"]}


def streamed(url: str) -> dict[str, Any]:
    first, *rest = model(url, max_tokens=20, stream_usage=True).stream(MESSAGES)
    whole = sum(rest, first)
    return {"text": whole.content, "finish": whole.response_metadata["finish_reason"], "tokens": whole.usage_metadata["output_tokens"]}


def structured(url: str) -> dict[str, Any]:
    methods = ("json_schema", "function_calling")
    by_schema, by_call = (model(url).with_structured_output(Bird, method=method, strict=True).invoke(MESSAGES) for method in methods)
    assert isinstance(by_schema, Bird)
    assert isinstance(by_call, Bird)
    return by_schema.model_dump()


def tools(url: str) -> dict[str, Any]:
    caller = model(url).bind_tools([LOOK], tool_choice="required", strict=True)
    answer = caller.invoke(MESSAGES)
    first, *rest = caller.stream(MESSAGES)
    assert [call["args"] for call in sum(rest, first).tool_calls] == [call["args"] for call in answer.tool_calls]
    results = [ToolMessage(LOOK.invoke(call["args"]), tool_call_id=call["id"]) for call in answer.tool_calls]
    followed = model(url, max_tokens=20).bind_tools([LOOK]).invoke([*MESSAGES, answer, *results])
    (call, *_) = answer.tool_calls
    return {"name": call["name"], "arguments": call["args"], "followed": followed.response_metadata["finish_reason"]}


def error(url: str) -> dict[str, Any]:
    try:
        model(url, seed=-1).invoke(MESSAGES)
    except APIError as failure:
        return {"status": getattr(failure, "status_code", None), "message": str(failure)}
    raise AssertionError("no error")


def stream_error(url: str) -> dict[str, Any]:
    try:
        list(model(url, seed=-1).stream(MESSAGES))
    except APIError as failure:
        return {"message": str(failure)}
    raise AssertionError("no error")


if __name__ == "__main__":
    scenarios = (plain, streamed, structured, tools, error, stream_error)
    json.dump({scenario.__name__: scenario(sys.argv[1]) for scenario in scenarios}, sys.stdout)
