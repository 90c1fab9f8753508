"""LlamaIndex's client for servers with OpenAI's API. See `tests/clients/test_clients.py`."""

import json
import sys
from typing import Any, Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from openai import APIError
from pydantic import BaseModel

MESSAGES = [ChatMessage(role="system", content="Name birds."), ChatMessage(role="user", content="hello")]


class Bird(BaseModel):
    """A bird."""

    name: Literal["heron", "swan"]
    wild: bool


def look(at: Literal["bay", "lake"]) -> str:
    """Looks at a place."""
    return f"a heron at the {at}"


TOOL = FunctionTool.from_defaults(look)


def model(url: str, **changes: Any) -> Any:
    given = {"model": "qwen_instruct", "temperature": 0, "max_retries": 0, "context_window": 4096}
    kinds = {"is_chat_model": True, "is_function_calling_model": True, "should_use_structured_outputs": True}
    return OpenAILike(api_base=f"{url}/chat/openai/v1", api_key="any", **given | kinds | changes)


def plain(url: str) -> dict[str, Any]:
    answer = model(url, max_tokens=20).chat(MESSAGES)
    choice, usage = answer.raw.choices[0], answer.raw.usage
    return {"text": answer.message.content, "finish": choice.finish_reason, "tokens": usage.completion_tokens}


def streamed(url: str) -> dict[str, Any]:
    options = {"stream_options": {"include_usage": True}}
    answers = list(model(url, max_tokens=20, additional_kwargs=options).stream_chat(MESSAGES))
    text = "".join(answer.delta or "" for answer in answers)
    finish = [answer.raw.choices[0].finish_reason for answer in answers if answer.raw.choices][-1]
    return {"text": text, "finish": finish, "tokens": answers[-1].raw.usage.completion_tokens}


def structured(url: str) -> dict[str, Any]:
    by_schema = model(url).as_structured_llm(Bird).chat(MESSAGES).raw
    by_call = model(url, should_use_structured_outputs=False).as_structured_llm(Bird).chat(MESSAGES).raw
    assert isinstance(by_schema, Bird)
    assert isinstance(by_call, Bird)
    return by_schema.model_dump()


def tools(url: str) -> dict[str, Any]:
    answer = model(url).chat_with_tools([TOOL], chat_history=MESSAGES, tool_required=True)
    calls = model(url).get_tool_calls_from_response(answer)
    results = [
        ChatMessage(role="tool", content=str(TOOL.call(**call.tool_kwargs)), additional_kwargs={"tool_call_id": call.tool_id})
        for call in calls
    ]
    followed = model(url, max_tokens=20).chat_with_tools([TOOL], chat_history=[*MESSAGES, answer.message, *results])
    return {"name": calls[0].tool_name, "arguments": calls[0].tool_kwargs, "followed": followed.raw.choices[0].finish_reason}


def error(url: str) -> dict[str, Any]:
    try:
        model(url, additional_kwargs={"seed": -1}).chat(MESSAGES)
    except APIError as failure:
        return {"status": getattr(failure, "status_code", None), "message": str(failure)}
    raise AssertionError("no error")


def stream_error(url: str) -> dict[str, Any]:
    try:
        list(model(url, additional_kwargs={"seed": -1}).stream_chat(MESSAGES))
    except APIError as failure:
        return {"message": str(failure)}
    raise AssertionError("no error")


if __name__ == "__main__":
    scenarios = (plain, streamed, structured, tools, error, stream_error)
    json.dump({scenario.__name__: scenario(sys.argv[1]) for scenario in scenarios}, sys.stdout)
