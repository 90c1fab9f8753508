"""OpenAI's chat completion protocol, as spoken with an inference server: request bodies, stream chunks, error responses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field

from handlers.chat.engine import FinishReason
from handlers.chat.request import ChatRequest
from shared.contract.names import show_name
from shared.errors import ContextLengthExceeded, GenerationError, InternalError, JobError, ModelUnavailable, Problem, ValidationError
from shared.telemetry import logger

# Statuses with which the same request may succeed later.
_BUSY = frozenset({408, 409, 425, 429})
# Statuses of a server that does not serve the configured model, or not to this worker.
_NOT_SERVED = frozenset({401, 403, 404, 405})


@dataclass(frozen=True, slots=True)
class ServerRejection(Problem):
    """A field that the inference server rejected. `sent` is the HTTP status; the server's reason may quote the conversation."""

    def __str__(self) -> str:
        return f"`{self.field}` was rejected by the inference server ({self.sent})"


class _PromptTokensDetails(BaseModel):
    cached_tokens: int | None = None


class Usage(BaseModel):
    """Token counts of a completion."""

    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _PromptTokensDetails | None = None


class _ChunkDelta(BaseModel):
    content: str | None = Field(None, repr=False)


class _Choice(BaseModel):
    delta: _ChunkDelta = _ChunkDelta()
    finish_reason: str | None = None


class Chunk(BaseModel):
    """One chunk of a streamed completion."""

    choices: list[_Choice] = []
    usage: Usage | None = None

    @property
    def text(self) -> str:
        """The text that the chunk adds."""
        return "".join(choice.delta.content or "" for choice in self.choices)

    @property
    def finish_reason(self) -> FinishReason | None:
        """The finish reason, in the last chunk of a choice.

        Raises:
            GenerationError: The server aborted the completion.
        """
        reasons = [choice.finish_reason for choice in self.choices if choice.finish_reason is not None]
        match reasons:
            case []:
                return None
            case ["stop" | "length" as reason]:
                return reason
        raise GenerationError("The inference server aborted the completion. Send the job again.")


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


def build_request_body(request: ChatRequest, model: str, max_tokens: int, *, extensions: bool = True) -> dict[str, Any]:
    """Returns the body of a chat completion request, with every sampling parameter set: servers have defaults of their own.

    `top_p` 0 is sent as `temperature` 0: both mean greedy decoding, and servers require `top_p` above 0.

    Args:
        request: The request.
        model: The server's name for the model.
        max_tokens: The maximum length of the completion.
        extensions: Whether the server supports vLLM's extensions of OpenAI's protocol.
    """
    greedy = request.top_p == 0.0 or request.temperature == 0.0
    body: dict[str, Any] = {
        "model": model,
        "messages": to_messages(request),
        "max_tokens": max_tokens,
        "temperature": 0.0 if greedy else request.temperature,
        "top_p": 1.0 if greedy else request.top_p,
        "seed": request.seed,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "n": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if extensions:
        # vLLM otherwise takes these from the model's generation config.
        body |= {
            "top_k": request.top_k or -1,
            "min_p": request.min_p,
            "repetition_penalty": request.repetition_penalty,
        }
    if request.min_tokens:
        body["min_tokens"] = request.min_tokens
    if request.stop_token_ids:
        body["stop_token_ids"] = list(request.stop_token_ids)
    if request.logit_bias:
        body["logit_bias"] = dict(request.logit_bias)
    body |= continuation(request)
    if request.stop:
        body["stop"] = list(request.stop)
    return body | _constraint(request)


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


def parse_chunk(data: str, too_long: ContextLengthExceeded) -> Chunk:
    """Parses one server-sent event.

    Args:
        data: The event's data.
        too_long: As for `to_job_error`.

    Raises:
        GenerationError: The event is not a chunk.
        JobError: The event is an error, as `to_job_error` maps it.
    """
    try:
        content = json.loads(data)
        if isinstance(content, dict) and ("error" in content or content.get("object") == "error"):
            code = _error_object(content).get("code")
            raise to_job_error(code if isinstance(code, int) else 500, data, too_long)
        return Chunk.model_validate(content)
    except ValueError:  # the base class of JSON and pydantic errors
        raise stream_interrupted() from None


def stream_interrupted() -> GenerationError:
    """Returns the error for a stream that ended before the completion did."""
    return GenerationError("The inference server broke off in the middle of the completion. Send the job again.")


def ensure_json(text: str) -> None:
    """Checks that a completion is JSON, as its response format requires.

    Raises:
        GenerationError: It is not.
    """
    if _parsed(text) is None and text.strip() != "null":
        raise GenerationError("The inference server does not support `response_format`: the completion is not JSON.", retryable=False)


def to_job_error(status: int, content: str | bytes, too_long: ContextLengthExceeded) -> JobError:
    """Maps a server's error response to a job error. The server's message may quote the conversation, so it is only logged, at DEBUG.

    Args:
        status: The HTTP status, or the code of an error event.
        content: The body.
        too_long: Returned if the conversation exceeds the context window.
    """
    logger().debug("inference server error", http_status=status, body=str(content))
    if status in _BUSY:
        return InternalError("The inference server is busy. Send the job again.")
    if not 400 <= status < 500:
        return InternalError("The inference server failed. Send the job again.")
    if status in _NOT_SERVED:
        return ModelUnavailable("The inference server does not serve the configured model to this worker. Its log says more.")
    details = _error_object(_parsed(content))
    if details.get("code") == "context_length_exceeded" or "context length" in str(details.get("message")).lower():
        return too_long
    field = show_name(details["param"]) if isinstance(details.get("param"), str) else "input"
    return ValidationError([ServerRejection(field, sent=f"HTTP {status}", allowed="a value that the inference server accepts")])


def _parsed(content: str | bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _error_object(body: object) -> dict[str, Any]:
    """Returns the error details, from either of the two forms that servers use; empty if there are none."""
    inner = body.get("error", body) if isinstance(body, dict) else None
    return inner if isinstance(inner, dict) else {}
