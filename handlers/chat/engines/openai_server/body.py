"""The bodies of completion requests, with every sampling parameter set: servers have defaults of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handlers.chat.request import ChatRequest

# vLLM samples with 0.01 what is asked for below, which is greedy decoding but for ties.
_MIN_TEMPERATURE = 0.01


def to_messages(request: ChatRequest) -> list[dict[str, str]]:
    """Returns the conversation in OpenAI's form."""
    return [{"role": message.role, "content": message.content} for message in request.messages]


def continuation(request: ChatRequest) -> dict[str, bool]:
    """Returns vLLM's parameters for continuing the last message."""
    return {"continue_final_message": True, "add_generation_prompt": False} if request.continue_final_message else {}


def used_extensions(request: ChatRequest) -> list[str]:
    """Returns the parameters of a request that require vLLM's extensions of OpenAI's protocol."""
    constraint = request.constraint
    used = {
        "repetition_penalty": request.repetition_penalty != 1.0,
        "continue_final_message": request.continue_final_message,
        "top_k": request.top_k > 0,
        "min_p": request.min_p > 0,
        "min_tokens": request.min_tokens > 0,
        "stop_token_ids": bool(request.stop_token_ids),
        constraint.field if constraint else "": constraint is not None and constraint.kind != "json",
    }
    return [name for name, is_used in used.items() if is_used]


def sampling_parameters(request: ChatRequest, model: str, max_tokens: int, *, extensions: bool = True) -> dict[str, Any]:
    """Returns the part of a body that does not depend on the route.

    `top_p` 0 is sent as `temperature` 0: both mean greedy decoding, and servers require `top_p` above 0.

    Args:
        request: The request.
        model: The server's name for the model.
        max_tokens: The maximum length of the completion.
        extensions: Whether the server supports vLLM's extensions of OpenAI's protocol.
    """
    greedy = request.top_p == 0.0 or request.temperature < (_MIN_TEMPERATURE if extensions else 1e-5)
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": max_tokens,
        "temperature": 0.0 if greedy else request.temperature,
        "top_p": 1.0 if greedy else request.top_p,
        "seed": request.seed,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "n": 1,
        "stream": True,
        "stream_options": {"include_usage": True, **({"continuous_usage_stats": True} if extensions else {})},
    }
    if extensions:
        # vLLM otherwise takes these from the model's generation config.
        body |= {
            "top_k": request.top_k if request.top_k > 0 else -1,
            "min_p": request.min_p,
            "repetition_penalty": request.repetition_penalty,
        }
    if request.min_tokens:
        body["min_tokens"] = request.min_tokens
    if request.logit_bias:
        body["logit_bias"] = dict(request.logit_bias)
    return body


def chat_body(request: ChatRequest, model: str, max_tokens: int, stop: Sequence[str], *, extensions: bool = True) -> dict[str, Any]:
    """Returns the body of a chat completion request.

    Args:
        request: The request.
        model: The server's name for the model.
        max_tokens: The maximum length of the completion.
        stop: The stop strings that the server looks for.
        extensions: Whether the server supports vLLM's extensions of OpenAI's protocol.
    """
    body = sampling_parameters(request, model, max_tokens, extensions=extensions)
    body |= {"messages": to_messages(request), **continuation(request), **_constraint(request)}
    if request.stop_token_ids:
        body["stop_token_ids"] = list(request.stop_token_ids)
    if stop:
        body["stop"] = list(stop)
    return body


def _constraint(request: ChatRequest) -> dict[str, Any]:
    """Returns OpenAI's `response_format`, or vLLM's `structured_outputs` for what that cannot express."""
    constraint, form = request.constraint, request.response_format
    if constraint is None:
        return {}
    if form.type == "json_object":
        return {"response_format": {"type": "json_object"}}
    if constraint.kind != "json":
        return {"structured_outputs": {constraint.kind: constraint.value}}
    name = form.json_schema.name if form.json_schema is not None else None
    schema = {"name": name or "answer", "schema": constraint.value, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}
