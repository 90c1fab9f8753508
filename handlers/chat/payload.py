"""The payload of a completed chat job, which repeats the completion and the token counts at its top level."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field

from shared.contract.assets import ClosedModel, OpenModel, TextAsset, omitted_if_none
from shared.contract.callback import BaseCompleted, CompletedMetadata, CompletedPayload, FailedPayload, ProcessingPayload


class ChatMetadata(CompletedMetadata):
    """Metadata of a completed chat job."""

    model_used: str
    enhancement_type: Annotated[str | None, Field(description="`base` or `instruct`; `null` for a chat.")]
    sfw_mode: Annotated[bool, Field(description="Whether the operator's word list was masked.")]
    system_prompt_used: Annotated[Literal["custom", "none"], Field(description="Whether there was a system prompt; never its text.")]


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

    @classmethod
    def of(cls, payload: CompletedPayload) -> Self:
        """Returns the top-level keys of a payload.

        Raises:
            ValueError: It is not the payload of a chat job.
        """
        return cls.model_validate(payload.model_extra)


class ChatCompleted(ChatTopLevel, BaseCompleted):
    """A completed chat job, with the keys that its callers read at the top level."""

    assets: Annotated[tuple[TextAsset, ...], Field(strict=False)]
    metadata: ChatMetadata


ChatPayload = Annotated[ChatCompleted | FailedPayload | ProcessingPayload, Field(discriminator="status")]
