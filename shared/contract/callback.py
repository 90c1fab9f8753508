"""The callback payload: what the handler returns and what is posted. Both are the same object, told apart by its `status`."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, Field, PlainSerializer, WithJsonSchema, model_validator

from shared.contract.assets import (
    Asset,
    ClosedModel,
    ImageAsset,
    OpenModel,
    PictureMetadata,
    TextAsset,
    TextMetadata,
    VideoAsset,
    VideoMetadata,
    omitted_if_none,
)
from shared.errors import ERRORS, Problem

__all__ = [
    "AnyPayload",
    "Asset",
    "ChatCompleted",
    "ChatMetadata",
    "ChatPayload",
    "CompletedMetadata",
    "CompletedPayload",
    "FailedMetadata",
    "FailedPayload",
    "ImageAsset",
    "Payload",
    "PictureMetadata",
    "ProcessingMetadata",
    "ProcessingPayload",
    "SdxlCompleted",
    "SdxlMetadata",
    "SdxlPayload",
    "TextAsset",
    "TextMetadata",
    "VideoAsset",
    "VideoMetadata",
    "WanCompleted",
    "WanMetadata",
    "WanPayload",
    "to_dict",
    "to_json",
]


def _ensure_code(code: str) -> str:
    if code not in _CODES:
        raise ValueError("not a code of the table of errors")
    return code


_CODES = [error.code for error in ERRORS]
_TYPES = [error.__name__ for error in ERRORS]

Timestamp = Annotated[
    AwareDatetime,
    PlainSerializer(lambda moment: moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"), return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A moment, written in UTC with milliseconds: `2026-01-01T00:00:00.000Z`."""

Timings = Annotated[dict[str, float], Field(description="Seconds of each step.")]
Strings = Annotated[tuple[str, ...], Field(strict=False)]


class CompletedMetadata(OpenModel):
    """What is said of every completed job."""

    job_type: Annotated[str, Field(description="The request's type.")]
    processing_time: Annotated[float, Field(description="Seconds of the whole job.")]
    generation_time: Annotated[float, Field(description="Seconds on the GPU.")]
    timings: Timings
    warnings: Annotated[
        Strings, Field(description="What the caller should know although the job is done: ignored names, mapped sizes.")
    ] = ()
    model_used: str | None = omitted_if_none
    vram_used: Annotated[int | None, Field(description="Most GPU memory that was in use, in MB.")] = omitted_if_none


class _PictureJobMetadata(CompletedMetadata):
    model_used: Annotated[str, Field(description="The model that made it.")]
    enhancement_source: Annotated[str, Field(description="`none`: a handler rewrites no prompt.")]
    compel_enhancement: Annotated[bool, Field(description="Whether weights in the prompt were read.")]
    reference_mode: Annotated[str, Field(description="What the references were used for; `none` without one.")]
    exact_copy_mode: Annotated[bool, Field(description="Whether the result is a copy of the reference.")]


class SdxlMetadata(_PictureJobMetadata):
    """What is said of a completed SDXL job."""

    reference_method: Annotated[str | None, Field(description="`img2img`, `inpaint`, `adapter` or `copy`.")] = omitted_if_none


class WanMetadata(_PictureJobMetadata):
    """What is said of a completed WAN job."""

    auto_enhancement: Annotated[bool, Field(description="Always `false`: a handler rewrites no prompt.")]


class ChatMetadata(CompletedMetadata):
    """What is said of a completed chat job."""

    model_used: str
    enhancement_type: Annotated[str | None, Field(description="`base` or `instruct`; `null` for a chat.")]
    sfw_mode: Annotated[bool, Field(description="Whether the operator's words were masked.")]
    system_prompt_used: Annotated[Literal["custom", "none"], Field(description="Whether there was one, never its text.")]


class _Ended(ClosedModel):
    job_id: str
    worker_id: Annotated[str, Field(description="`{handler}_worker_{pod}`.")]
    completed_at: Annotated[Timestamp, Field(alias="completedAt", description="When the job ended, in UTC.")]

    model_config = ClosedModel.model_config | {"populate_by_name": True}


class _Completed(_Ended):
    status: Literal["completed"] = "completed"
    error_message: None = None


class ModelInfo(OpenModel):
    """The model that answered."""

    model: str


class Usage(ClosedModel):
    """Tokens that were read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletedPayload(_Completed):
    """A job with its result, whichever handler made it."""

    assets: Annotated[tuple[Asset, ...], Field(strict=False)]
    metadata: CompletedMetadata
    success: bool | None = omitted_if_none
    response: Annotated[str | None, Field(repr=False)] = omitted_if_none
    enhanced_prompt: Annotated[str | None, Field(repr=False)] = omitted_if_none
    tokens_generated: int | None = omitted_if_none
    generation_time: float | None = omitted_if_none
    model_info: ModelInfo | None = omitted_if_none
    usage: Usage | None = omitted_if_none

    @model_validator(mode="after")
    def _counts_its_assets(self) -> Self:
        if [asset.asset_index for asset in self.assets] != list(range(len(self.assets))):
            raise ValueError("an asset's index is not its position")
        return self


class SdxlCompleted(_Completed):
    """A completed SDXL job."""

    assets: Annotated[tuple[ImageAsset, ...], Field(strict=False)]
    metadata: SdxlMetadata


class WanCompleted(_Completed):
    """A completed WAN job."""

    assets: Annotated[tuple[Annotated[ImageAsset | VideoAsset, Field(discriminator="type")], ...], Field(strict=False)]
    metadata: WanMetadata


class ChatCompleted(_Completed):
    """A completed chat job, with the top-level keys that its callers read."""

    assets: Annotated[tuple[TextAsset, ...], Field(strict=False)]
    metadata: ChatMetadata
    success: Literal[True]
    response: Annotated[str, Field(repr=False, description="The answer, as in the asset.")]
    enhanced_prompt: Annotated[str | None, Field(repr=False, description="Enhancements only: the answer again.")] = omitted_if_none
    tokens_generated: int
    generation_time: float
    model_info: ModelInfo
    usage: Usage


class FailedMetadata(OpenModel):
    """Why a job failed."""

    error_code: Annotated[
        str, AfterValidator(_ensure_code), Field(description="See the table of errors.", json_schema_extra={"enum": list[Any](_CODES)})
    ]
    error_type: Annotated[str, Field(description="The error's name in the code.", json_schema_extra={"enum": list[Any](_TYPES)})]
    retryable: Annotated[bool, Field(description="Whether the same job may succeed later.")]
    processing_time: Annotated[float, Field(description="Seconds until it failed.")]
    timings: Timings
    warnings: Annotated[Strings, Field(description="As for completed jobs.")] = ()
    job_type: Annotated[str | None, Field(description="Where the request had a legible one.")] = omitted_if_none
    problems: Annotated[
        tuple[Problem, ...] | None, Field(strict=False, description="`VALIDATION_ERROR` only: everything that is wrong with the request.")
    ] = omitted_if_none
    assets_pending: Annotated[
        tuple[str, ...] | None,
        Field(
            strict=False,
            description="`UPLOAD_ERROR` only: keys of what is kept on the worker; `completed` is called back once it is stored.",
        ),
    ] = omitted_if_none


class FailedPayload(_Ended):
    """A job without a result."""

    status: Literal["failed"] = "failed"
    assets: Annotated[tuple[()], Field(strict=False)] = ()
    metadata: FailedMetadata
    error_message: Annotated[str, Field(description="One sentence for a person.")]


class ProcessingMetadata(OpenModel):
    """What is said of a job that has begun."""

    job_type: Annotated[str | None, Field(description="Where the request had a legible one.")] = omitted_if_none


class ProcessingPayload(ClosedModel):
    """A job that has begun. Sent at most once, only where the operator wants it, and never after a final payload."""

    job_id: str
    worker_id: str
    status: Literal["processing"] = "processing"
    assets: Annotated[tuple[()], Field(strict=False)] = ()
    metadata: ProcessingMetadata = ProcessingMetadata()
    error_message: None = None


_ORDER = ("job_id", "worker_id", "status", "assets", "metadata", "error_message", "completedAt")

Payload = Annotated[CompletedPayload | FailedPayload | ProcessingPayload, Field(discriminator="status")]
SdxlPayload = Annotated[SdxlCompleted | FailedPayload | ProcessingPayload, Field(discriminator="status")]
WanPayload = Annotated[WanCompleted | FailedPayload | ProcessingPayload, Field(discriminator="status")]
ChatPayload = Annotated[ChatCompleted | FailedPayload | ProcessingPayload, Field(discriminator="status")]


AnyPayload = CompletedPayload | SdxlCompleted | WanCompleted | ChatCompleted | FailedPayload | ProcessingPayload
"""Every class of payload."""


def to_json(payload: AnyPayload) -> bytes:
    """The payload as strict, compact JSON in UTF-8: the body of the webhook, byte for byte.

    Raises:
        ValueError: A number is not finite, or a text is not valid UTF-8.
    """
    content = payload.model_dump(mode="json", by_alias=True)
    content = {name: content[name] for name in _ORDER if name in content} | content
    return json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def to_dict(payload: AnyPayload) -> dict[str, Any]:
    """The same content as `to_json`, for RunPod.

    Raises:
        ValueError: As `to_json`.
    """
    content: dict[str, Any] = json.loads(to_json(payload))
    return content
