"""The payload of a job: the handler's return value and the webhook's body are the same object, discriminated by `status`.

The shape of a completed payload differs by handler; each declares its own in `handlers/*/payload.py`, from which the schemas are generated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, JsonValue, PlainSerializer, WithJsonSchema, model_validator

from shared.contract.assets import Asset, ClosedModel, OpenModel, omitted_if_none
from shared.errors import ERRORS, Problem

WORKER_VERSION: Final = "0.1.0"
"""The version of this code, as in `pyproject.toml`."""


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
"""A time in UTC with milliseconds: `2026-01-01T00:00:00.000Z`."""

Timings = Annotated[dict[str, float], Field(description="Seconds of each step.")]
Strings = Annotated[tuple[str, ...], Field(strict=False)]


RunPodId = Annotated[str, Field(description="RunPod's id of the job. It differs between the attempts of one `job_id`.")]
WorkerVersion = Annotated[str, Field(description="The version of the worker's code.")]
_Cleared = Annotated[None, Field(description="Always `null`: clears the value of an earlier failure where receivers merge metadata.")]


class CompletedMetadata(OpenModel):
    """Metadata of every completed job."""

    runpod_id: RunPodId
    worker_version: WorkerVersion = WORKER_VERSION
    job_type: Annotated[str, Field(description="The request's type.")]
    processing_time: Annotated[float, Field(description="Seconds of the whole job.")]
    generation_time: Annotated[float, Field(description="Seconds on the GPU.")]
    timings: Timings
    warnings: Annotated[
        Strings, Field(description="What was ignored or changed although the job succeeded: unknown fields, mapped sizes.")
    ] = ()
    model_used: str | None = omitted_if_none
    device: Annotated[str | None, Field(description="The GPU's name, or `cpu`.")] = omitted_if_none
    vram_used: Annotated[int | None, Field(description="Peak GPU memory in MB.")] = omitted_if_none
    vram_total: Annotated[int | None, Field(description="The GPU's memory in MB; 0 without one.")] = omitted_if_none
    error_code: _Cleared = None
    error_type: _Cleared = None
    retryable: _Cleared = None
    assets_pending: _Cleared = None


class VisualMetadata(CompletedMetadata):
    """Metadata of jobs that generate images or videos."""

    model_used: Annotated[str, Field(description="The model that was used.")]
    enhancement_source: Annotated[str, Field(description="`none`: handlers do not rewrite prompts.")]
    compel_enhancement: Annotated[bool, Field(description="Whether prompt weights were applied.")]
    reference_mode: Annotated[str, Field(description="How the references were used; `none` without one.")]
    exact_copy_mode: Annotated[bool, Field(description="Whether the result is a copy of the reference.")]


class _FinalPayload(ClosedModel):
    job_id: str
    worker_id: Annotated[str, Field(description="`{handler}_worker_{pod}`.")]
    completed_at: Annotated[Timestamp, Field(alias="completedAt", description="When the job ended, in UTC.")]

    model_config = ClosedModel.model_config | {"populate_by_name": True}


class BaseCompleted(_FinalPayload):
    """The keys of every completed payload. Handlers narrow `assets` and `metadata` to their own types."""

    status: Literal["completed"] = "completed"
    error_message: None = None
    assets: Annotated[tuple[Asset, ...], Field(strict=False)]
    metadata: CompletedMetadata

    @model_validator(mode="after")
    def _check_indices(self) -> Self:
        if [asset.asset_index for asset in self.assets] != list(range(len(self.assets))):
            raise ValueError("an asset's index is not its position")
        return self


class CompletedPayload(BaseCompleted):
    """A completed job of any handler. Keys that only one handler has at the top level are kept as JSON."""

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, JsonValue]

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        # Undeclared keys may hold generated text, which must not reach a log line.
        yield from ((name, value) for name, value in super().__repr_args__() if name in type(self).model_fields)


class FailedMetadata(OpenModel):
    """Why a job failed."""

    runpod_id: RunPodId
    worker_version: WorkerVersion = WORKER_VERSION
    error_code: Annotated[
        str, AfterValidator(_ensure_code), Field(description="See the table of errors.", json_schema_extra={"enum": list[Any](_CODES)})
    ]
    error_type: Annotated[str, Field(description="The name of the error's class.", json_schema_extra={"enum": list[Any](_TYPES)})]
    retryable: Annotated[bool, Field(description="Whether the same job may succeed later.")]
    processing_time: Annotated[float, Field(description="Seconds until it failed.")]
    timings: Timings
    warnings: Annotated[Strings, Field(description="As for completed jobs.")] = ()
    job_type: Annotated[str | None, Field(description="The request's type, where it is valid.")] = omitted_if_none
    problems: Annotated[
        tuple[Problem, ...] | None, Field(strict=False, description="`VALIDATION_ERROR` only: everything that is wrong with the request.")
    ] = omitted_if_none
    assets_pending: Annotated[
        tuple[str, ...] | None,
        Field(
            strict=False,
            description="`UPLOAD_ERROR` only: keys of assets in the worker's outbox; a `completed` callback follows once they are stored.",
        ),
    ] = omitted_if_none


class FailedPayload(_FinalPayload):
    """A job without a result."""

    status: Literal["failed"] = "failed"
    assets: Annotated[tuple[()], Field(strict=False)] = ()
    metadata: FailedMetadata
    error_message: Annotated[str, Field(description="A message for the user.")]


class ProcessingMetadata(OpenModel):
    """Metadata of a job that has started."""

    runpod_id: RunPodId
    job_type: Annotated[str | None, Field(description="The request's type, where it is valid.")] = omitted_if_none


class ProcessingPayload(ClosedModel):
    """A job that has started. Sent at most once, only if the operator enabled it, and never after a final payload."""

    job_id: str
    worker_id: str
    status: Literal["processing"] = "processing"
    assets: Annotated[tuple[()], Field(strict=False)] = ()
    metadata: ProcessingMetadata
    error_message: None = None


_ORDER = ("job_id", "worker_id", "status", "assets", "metadata", "error_message", "completedAt")

Payload = Annotated[CompletedPayload | FailedPayload | ProcessingPayload, Field(discriminator="status")]


def to_json(payload: BaseCompleted | FailedPayload | ProcessingPayload) -> bytes:
    """Serializes a payload as strict, compact JSON in UTF-8: the webhook's body, byte for byte.

    Raises:
        ValueError: A number is not finite, or a string is not valid UTF-8.
    """
    content = payload.model_dump(mode="json", by_alias=True)
    content = {name: content[name] for name in _ORDER if name in content} | content
    return json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def to_dict(payload: BaseCompleted | FailedPayload | ProcessingPayload) -> dict[str, Any]:
    """Returns the content of `to_json` as a dict, for RunPod.

    Raises:
        ValueError: As `to_json`.
    """
    content: dict[str, Any] = json.loads(to_json(payload))
    return content
