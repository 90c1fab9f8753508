"""Response objects in OpenAI's form: completions, chunks, the list of models and errors, built from payloads and job errors.

OpenAI's API reference, "Chat": https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field

from handlers.chat.payload import ChatTopLevel, Usage
from shared.contract.assets import ClosedModel, omitted_if_none
from shared.contract.callback import CompletedPayload
from shared.errors import JobError, ValidationError

DONE = "data: [DONE]\n\n"
"""The event that ends a stream."""

FinishReason = Literal["stop", "length"]


class OpenAIMessage(ClosedModel):
    """The assistant message of a completion."""

    role: Literal["assistant"] = "assistant"
    content: Annotated[str, Field(repr=False)]
    refusal: None = None


class OpenAIChoice(ClosedModel):
    """The only choice of a completion."""

    index: int = 0
    message: OpenAIMessage
    logprobs: None = None
    finish_reason: Annotated[FinishReason, Field(description="`stop`, or `length` when `max_tokens` was reached.")]


class _CompletionBase(ClosedModel):
    id: Annotated[str, Field(description="`chatcmpl-` and the job id.")]
    created: Annotated[int, Field(description="When the job started, as a Unix timestamp in seconds.")]
    model: Annotated[str, Field(description="The model that generated the completion.")]


Warnings = Annotated[tuple[str, ...] | None, Field(description="An extension of OpenAI's form: warnings, such as ignored parameters.")]


class OpenAICompletion(_CompletionBase):
    """A completion."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: Annotated[tuple[OpenAIChoice, ...], Field(description="One.")]
    usage: Usage
    warnings: Warnings = omitted_if_none


class OpenAIDelta(ClosedModel):
    """The part of the message that a chunk adds."""

    role: Literal["assistant"] | None = omitted_if_none
    content: Annotated[str | None, Field(repr=False)] = omitted_if_none


class OpenAIChunkChoice(ClosedModel):
    """The choice of a chunk."""

    index: int = 0
    delta: OpenAIDelta
    logprobs: None = None
    finish_reason: Annotated[FinishReason | None, Field(description="`null` in all chunks but the last with a choice.")] = None


class OpenAIChunk(_CompletionBase):
    """A chunk of a streamed completion."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: Annotated[tuple[OpenAIChunkChoice, ...], Field(description="One; none in the chunk that has the usage.")]
    usage: Annotated[Usage | None, Field(description="Only with `stream_options.include_usage`, after the last choice.")] = omitted_if_none
    warnings: Warnings = omitted_if_none


class OpenAIModel(ClosedModel):
    """A model that this worker serves."""

    id: Annotated[str, Field(description="The name that requests use for the model.")]
    object: Literal["model"] = "model"
    created: Annotated[int, Field(description="When the worker started, as a Unix timestamp in seconds.")]
    owned_by: Literal["worker"] = "worker"


class OpenAIModels(ClosedModel):
    """The models that this worker serves."""

    object: Literal["list"] = "list"
    data: tuple[OpenAIModel, ...]


class OpenAIErrorBody(ClosedModel):
    """The details of an error."""

    message: Annotated[str, Field(description="A human-readable message.")]
    type: Annotated[
        Literal["invalid_request_error", "server_error"], Field(description="`server_error` if the same request may succeed later.")
    ]
    param: Annotated[str | None, Field(description="The first invalid parameter, if the error is about one.")]
    code: Annotated[str, Field(description="The error code in lower case: `context_length_exceeded`.")]


class OpenAIError(ClosedModel):
    """The response to a request that failed."""

    error: OpenAIErrorBody


OpenAIResponse = OpenAICompletion | OpenAIChunk | OpenAIModels | OpenAIError
"""Every response object."""


def completion(payload: CompletedPayload, created: int) -> OpenAICompletion:
    """Builds the completion of a completed chat job.

    Args:
        payload: The job's payload.
        created: When the job started, as a Unix timestamp in seconds.
    """
    choice = OpenAIChoice(message=OpenAIMessage(content=ChatTopLevel.of(payload).response), finish_reason=_finish_reason(payload))
    return OpenAICompletion(
        id=completion_id(payload.job_id),
        created=created,
        model=payload.metadata.model_used or "",
        choices=(choice,),
        usage=usage_of(payload),
        warnings=payload.metadata.warnings or None,
    )


def completion_id(job_id: str) -> str:
    """Returns the id of a job's completion."""
    return f"chatcmpl-{job_id}"


def usage_of(payload: CompletedPayload) -> Usage:
    """Returns the token usage of a completed chat job."""
    return ChatTopLevel.of(payload).usage


def error(failure: JobError) -> OpenAIError:
    """Builds the error object of a failed job."""
    param = failure.problems[0].field if isinstance(failure, ValidationError) and failure.problems else None
    return OpenAIError(
        error=OpenAIErrorBody(
            message=failure.message,
            type="server_error" if failure.retryable else "invalid_request_error",
            param=param,
            code=failure.code.lower(),
        )
    )


def last_chunk(payload: CompletedPayload, created: int) -> OpenAIChunk:
    """Builds the chunk with the finish reason."""
    choice = OpenAIChunkChoice(delta=OpenAIDelta(), finish_reason=_finish_reason(payload))
    return OpenAIChunk(
        id=completion_id(payload.job_id),
        created=created,
        model=payload.metadata.model_used or "",
        choices=(choice,),
        warnings=payload.metadata.warnings or None,
    )


def to_json(response: OpenAIResponse) -> str:
    """Serialises a response object as strict, compact JSON in ASCII, so that no intermediary can split a character or misread a line end.

    Raises:
        ValueError: A number is not finite.
    """
    return json.dumps(response.model_dump(mode="json"), allow_nan=False, separators=(",", ":"))


def event(response: OpenAIChunk | OpenAIError) -> str:
    """Serialises a response object as one server-sent event."""
    return f"data: {to_json(response)}\n\n"


def _finish_reason(payload: CompletedPayload) -> FinishReason:
    (asset,) = payload.assets
    return "length" if asset.type == "text" and asset.metadata.finish_reason == "length" else "stop"
