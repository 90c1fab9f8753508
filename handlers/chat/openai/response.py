"""Response objects in OpenAI's form: completions, chunks, the list of models and errors, built from payloads and job errors.

OpenAI's API reference, "Chat": https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from handlers.chat.choice_delta import ChoiceDelta
from handlers.chat.payload import ChatCompleted, ChoiceAsset, LogprobEntry, ToolCallEntry, Usage, call_to_json, logprob_to_json
from shared.contract.assets import ClosedModel, omitted_if_none
from shared.contract.callback import CompletedPayload
from shared.errors import JobError, ValidationError

DONE = "data: [DONE]\n\n"
"""The event that ends a stream."""

FinishReason = Literal["stop", "length", "tool_calls"]


class OpenAIMessage(ClosedModel):
    """The assistant message of a choice."""

    role: Literal["assistant"] = "assistant"
    content: Annotated[str | None, Field(repr=False, description="`null` if there are only tool calls.")]
    refusal: None = None
    tool_calls: Annotated[tuple[ToolCallEntry, ...] | None, Field(description="The calls of tools, if there are any.")] = omitted_if_none


class OpenAILogprobs(ClosedModel):
    """Log probabilities of the tokens."""

    content: Annotated[tuple[LogprobEntry, ...], Field(strict=False, repr=False)]
    refusal: None = None


class OpenAIChoice(ClosedModel):
    """One of the choices of a completion."""

    index: int
    message: OpenAIMessage
    logprobs: Annotated[OpenAILogprobs | None, Field(description="With `logprobs`: one for each token.")] = None
    finish_reason: Annotated[FinishReason, Field(description="`stop`, `length` when `max_tokens` was reached, or `tool_calls`.")]


class _CompletionBase(ClosedModel):
    id: Annotated[str, Field(description="`chatcmpl-` and the job id.")]
    created: Annotated[int, Field(description="When the job started, as a Unix timestamp in seconds.")]
    model: Annotated[str, Field(description="The model that generated the completion.")]


Warnings = Annotated[tuple[str, ...] | None, Field(description="An extension of OpenAI's form: warnings, such as ignored parameters.")]


class OpenAICompletion(_CompletionBase):
    """A completion."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: Annotated[tuple[OpenAIChoice, ...], Field(description="`n`.")]
    usage: Usage
    warnings: Warnings = omitted_if_none


class OpenAIToolCallDelta(ToolCallEntry):
    """A call of a tool, whole."""

    index: Annotated[int, Field(description="Its position among the calls of the choice.")]


class OpenAIDelta(ClosedModel):
    """The part of the message that a chunk adds."""

    role: Literal["assistant"] | None = omitted_if_none
    content: Annotated[str | None, Field(repr=False)] = omitted_if_none
    tool_calls: tuple[OpenAIToolCallDelta, ...] | None = omitted_if_none


class OpenAIChunkChoice(ClosedModel):
    """The choice of a chunk."""

    index: int
    delta: OpenAIDelta
    logprobs: OpenAILogprobs | None = None
    finish_reason: Annotated[FinishReason | None, Field(description="`null` in all chunks of a choice but its last.")] = None


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


class CompletionForm:
    """Renders completions of one of OpenAI's two kinds.

    Args:
        job_id: RunPod's id of the job.
        created: When the job started, as a Unix timestamp in seconds.
        model: The requested model. Only appears in chunks, and thus not before the request has been validated.
    """

    id_prefix: ClassVar[str]

    def __init__(self, job_id: str, created: int, model: str) -> None:
        self._base: dict[str, Any] = {"id": f"{self.id_prefix}-{job_id}", "created": created, "model": model}


class ChatForm(CompletionForm):
    """Renders chat completions."""

    id_prefix = "chatcmpl"

    def __init__(self, job_id: str, created: int, model: str) -> None:
        super().__init__(job_id, created, model)
        self._started: set[int] = set()  # choices with a chunk, the first of which has the role

    def whole(self, payload: CompletedPayload) -> OpenAICompletion:
        """Renders the completion of a completed job."""
        done = ChatCompleted.of(payload)
        return OpenAICompletion(
            **self._base | {"model": done.metadata.model_used},
            choices=tuple(_choice(asset) for asset in done.assets),
            usage=done.usage,
            warnings=done.metadata.warnings or None,
        )

    def chunk(self, delta: ChoiceDelta) -> OpenAIChunk:
        """Renders what is new of a choice."""
        calls = tuple(
            OpenAIToolCallDelta.model_validate({"index": call.position, **call_to_json(call)}, strict=False) for call in delta.tool_calls
        )
        role: Literal["assistant"] | None = None if delta.index in self._started else "assistant"
        self._started.add(delta.index)
        # OpenAI's first chunk has an empty content, unless there is none.
        content = delta.text if delta.text or not calls else None
        logprobs = OpenAILogprobs.model_validate({"content": [*map(logprob_to_json, delta.logprobs)]}) if delta.logprobs else None
        message = OpenAIDelta(role=role, content=content, tool_calls=calls or None)
        return OpenAIChunk(**self._base, choices=(OpenAIChunkChoice(index=delta.index, delta=message, logprobs=logprobs),))

    def last_chunks(self, payload: CompletedPayload) -> Iterator[OpenAIChunk]:
        """Renders the chunks with the finish reasons."""
        done = ChatCompleted.of(payload)
        for asset in done.assets:
            if asset.asset_index not in self._started:
                yield self.chunk(ChoiceDelta(asset.asset_index))
            choice = OpenAIChunkChoice(index=asset.asset_index, delta=OpenAIDelta(), finish_reason=finish_reason(asset))
            warnings = done.metadata.warnings if asset is done.assets[-1] else ()
            yield OpenAIChunk(**self._base, choices=(choice,), warnings=warnings or None)

    def usage_chunk(self, payload: CompletedPayload) -> OpenAIChunk:
        """Renders the chunk with the token counts."""
        return OpenAIChunk(**self._base, choices=(), usage=ChatCompleted.of(payload).usage)


def _choice(asset: ChoiceAsset) -> OpenAIChoice:
    calls = asset.metadata.tool_calls
    message = OpenAIMessage(content=asset.content if asset.content or not calls else None, tool_calls=calls)
    logprobs = None if asset.metadata.logprobs is None else OpenAILogprobs(content=asset.metadata.logprobs)
    return OpenAIChoice(index=asset.asset_index, message=message, logprobs=logprobs, finish_reason=finish_reason(asset))


def finish_reason(asset: ChoiceAsset) -> FinishReason:
    """Returns the reason for which a choice has ended."""
    reasons: Mapping[str, FinishReason] = {"length": "length", "tool_calls": "tool_calls"}
    return reasons.get(asset.metadata.finish_reason, "stop")


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


def to_json(response: ClosedModel) -> str:
    """Serialises a response object as strict, compact JSON in ASCII, so that no intermediary can split a character or misread a line end.

    Raises:
        ValueError: A number is not finite.
    """
    return json.dumps(response.model_dump(mode="json"), allow_nan=False, separators=(",", ":"))


def event(response: ClosedModel) -> str:
    """Serialises a response object as one server-sent event."""
    return f"data: {to_json(response)}\n\n"
