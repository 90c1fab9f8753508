"""Answers in OpenAI's form, made of payloads and of the table of errors: completions, chunks, the list of models, errors.

OpenAI's API reference, "Chat": https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field

from shared.contract.assets import ClosedModel, omitted_if_none
from shared.contract.callback import CompletedPayload, Usage
from shared.errors import JobError, ValidationError

DONE = "data: [DONE]\n\n"
"""The end of a streamed answer."""

FinishReason = Literal["stop", "length"]


class OpenAIMessage(ClosedModel):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: Annotated[str, Field(repr=False)]
    refusal: None = None


class OpenAIChoice(ClosedModel):
    """One answer; there is never a second."""

    index: int = 0
    message: OpenAIMessage
    logprobs: None = None
    finish_reason: Annotated[FinishReason, Field(description="`stop`, or `length` when `max_tokens` was reached.")]


class _Answer(ClosedModel):
    id: Annotated[str, Field(description="`chatcmpl-` and the job's id.")]
    created: Annotated[int, Field(description="When the answer began, in seconds since 1970.")]
    model: Annotated[str, Field(description="The model that answered.")]


Warnings = Annotated[tuple[str, ...] | None, Field(description="Not of OpenAI: what the caller should know, such as ignored names.")]


class OpenAICompletion(_Answer):
    """A whole answer."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: Annotated[tuple[OpenAIChoice, ...], Field(description="One.")]
    usage: Usage
    warnings: Warnings = omitted_if_none


class OpenAIDelta(ClosedModel):
    """What a chunk adds to the answer."""

    role: Literal["assistant"] | None = omitted_if_none
    content: Annotated[str | None, Field(repr=False)] = omitted_if_none


class OpenAIChunkChoice(ClosedModel):
    """A piece of the answer."""

    index: int = 0
    delta: OpenAIDelta
    logprobs: None = None
    finish_reason: Annotated[FinishReason | None, Field(description="`null` in all chunks but the last with a choice.")] = None


class OpenAIChunk(_Answer):
    """A piece of a streamed answer."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: Annotated[tuple[OpenAIChunkChoice, ...], Field(description="One; none in the chunk that has the usage.")]
    usage: Annotated[Usage | None, Field(description="Only with `stream_options.include_usage`, after the last choice.")] = omitted_if_none
    warnings: Warnings = omitted_if_none


class OpenAIModel(ClosedModel):
    """A model that this worker has."""

    id: Annotated[str, Field(description="What `model` of a request may be.")]
    object: Literal["model"] = "model"
    created: Annotated[int, Field(description="When the worker started, in seconds since 1970.")]
    owned_by: Literal["worker"] = "worker"


class OpenAIModels(ClosedModel):
    """The models that this worker has."""

    object: Literal["list"] = "list"
    data: tuple[OpenAIModel, ...]


class OpenAIErrorBody(ClosedModel):
    """What went wrong."""

    message: Annotated[str, Field(description="One sentence for a person.")]
    type: Annotated[
        Literal["invalid_request_error", "server_error"], Field(description="`server_error` where the same request may succeed later.")
    ]
    param: Annotated[str | None, Field(description="The first field that is wrong, where it is a field.")]
    code: Annotated[str, Field(description="The code of the table of errors in lower case: `context_length_exceeded`.")]


class OpenAIError(ClosedModel):
    """A request without an answer."""

    error: OpenAIErrorBody


AnyAnswer = OpenAICompletion | OpenAIChunk | OpenAIModels | OpenAIError
"""Every object that goes out in OpenAI's form."""


def completion(payload: CompletedPayload, created: int) -> OpenAICompletion:
    """A completed chat as one object.

    Args:
        payload: The job's payload, of a chat.
        created: When the job began, in seconds since 1970.
    """
    choice = OpenAIChoice(message=OpenAIMessage(content=payload.response or ""), finish_reason=_finish_reason(payload))
    return OpenAICompletion(
        id=completion_id(payload.job_id),
        created=created,
        model=payload.metadata.model_used or "",
        choices=(choice,),
        usage=usage_of(payload),
        warnings=payload.metadata.warnings or None,
    )


def completion_id(job_id: str) -> str:
    """The id of an answer."""
    return f"chatcmpl-{job_id}"


def usage_of(payload: CompletedPayload) -> Usage:
    """What a completed chat has used."""
    if payload.usage is None:
        raise ValueError("not the payload of a chat")
    return payload.usage


def error(failure: JobError) -> OpenAIError:
    """A row of the table of errors as OpenAI words it."""
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
    """The chunk that says how the answer ended."""
    choice = OpenAIChunkChoice(delta=OpenAIDelta(), finish_reason=_finish_reason(payload))
    return OpenAIChunk(
        id=completion_id(payload.job_id),
        created=created,
        model=payload.metadata.model_used or "",
        choices=(choice,),
        warnings=payload.metadata.warnings or None,
    )


def to_text(answer: AnyAnswer) -> str:
    """An object as strict, compact JSON in ASCII: nobody on its way cuts a character in two, or takes one for the end of a line.

    Raises:
        ValueError: A number is not finite.
    """
    return json.dumps(answer.model_dump(mode="json"), allow_nan=False, separators=(",", ":"))


def event(answer: OpenAIChunk | OpenAIError) -> str:
    """An object as one server-sent event."""
    return f"data: {to_text(answer)}\n\n"


def _finish_reason(payload: CompletedPayload) -> FinishReason:
    (asset,) = payload.assets
    return "length" if asset.type == "text" and asset.metadata.finish_reason == "length" else "stop"
