"""The payload of a completed chat job, which repeats the completion and the token counts at its top level."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue

from handlers.chat.choice_delta import ToolCall
from handlers.chat.logprobs import TokenLogprob
from shared.contract.assets import ClosedModel, OpenModel, TextAsset, TextMetadata, omitted_if_none
from shared.contract.callback import BaseCompleted, CompletedMetadata, CompletedPayload, FailedPayload, ProcessingPayload, to_json


class ChatMetadata(CompletedMetadata):
    """Metadata of a completed chat job."""

    model_used: str
    enhancement_type: Annotated[str | None, Field(description="`base` or `instruct`; `null` for a chat.")]
    sfw_mode: Annotated[bool, Field(description="Whether the operator's word list was masked.")]
    system_prompt_used: Annotated[Literal["custom", "none"], Field(description="Whether there was a system prompt; never its text.")]


class CalledFunction(ClosedModel):
    """The called function."""

    name: str
    arguments: Annotated[str, Field(repr=False, description="A JSON object, as text.")]


class ToolCallEntry(ClosedModel):
    """A call of a tool."""

    id: Annotated[str, Field(description="Refers to the call in the message with its result.")]
    type: Literal["function"] = "function"
    function: CalledFunction


class AlternativeEntry(ClosedModel):
    """A token and its log probability."""

    token: Annotated[str, Field(repr=False)]
    logprob: float
    bytes: Annotated[tuple[int, ...], Field(strict=False, repr=False, description="Its UTF-8 bytes, which may be part of a character.")]


class LogprobEntry(AlternativeEntry):
    """A token of the completion, its log probability, and the most likely tokens at its position."""

    top_logprobs: Annotated[tuple[AlternativeEntry, ...], Field(strict=False, repr=False)]


class ChoiceMetadata(TextMetadata):
    """Metadata of a completion."""

    tool_calls: Annotated[
        tuple[ToolCallEntry, ...] | None, Field(strict=False, repr=False, description="The calls of tools, if there are any.")
    ] = omitted_if_none
    logprobs: Annotated[
        tuple[LogprobEntry, ...] | None, Field(strict=False, repr=False, description="With `logprobs`: one for each token.")
    ] = omitted_if_none


class ChoiceAsset(TextAsset):
    """A completion."""

    metadata: Annotated[ChoiceMetadata, Field(repr=False)]


class ModelInfo(OpenModel):
    """The model that generated the completion."""

    model: str


class Usage(ClosedModel):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatTopLevel(ClosedModel):
    """The keys that a chat payload has at its top level."""

    success: Literal[True]
    response: Annotated[str, Field(repr=False, description="The completion, as in the asset.")]
    enhanced_prompt: Annotated[str | None, Field(repr=False, description="Enhancements only: the completion again.")] = omitted_if_none
    tokens_generated: int
    generation_time: float
    model_info: ModelInfo
    usage: Usage


class ChatCompleted(ChatTopLevel, BaseCompleted):
    """A completed chat job, with the keys that its callers read at the top level."""

    assets: Annotated[tuple[ChoiceAsset, ...], Field(strict=False)]
    metadata: ChatMetadata

    @classmethod
    def of(cls, payload: CompletedPayload) -> Self:
        """Returns a payload as that of a chat job.

        Raises:
            ValueError: It is not one.
        """
        return cls.model_validate_json(to_json(payload))


ChatPayload = Annotated[ChatCompleted | FailedPayload | ProcessingPayload, Field(discriminator="status")]


def call_to_json(call: ToolCall) -> dict[str, JsonValue]:
    """Returns a tool call as payloads and OpenAI's messages have it."""
    entry = ToolCallEntry(id=call.id, function=CalledFunction(name=call.name, arguments=call.arguments))
    return entry.model_dump(mode="json")


def logprob_to_json(logprob: TokenLogprob) -> dict[str, JsonValue]:
    """Returns a log probability as payloads and OpenAI's choices have it."""
    alternatives: list[JsonValue] = [_alternative(each) for each in logprob.top]
    return _alternative(logprob) | {"top_logprobs": alternatives}


def _alternative(logprob: TokenLogprob) -> dict[str, JsonValue]:
    return {"token": logprob.token, "logprob": logprob.logprob, "bytes": list(logprob.bytes)}
