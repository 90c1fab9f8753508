"""Builders of the payloads that report a job: processing, completed, failed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import JsonValue

from shared.contract.assets import Asset, VideoAsset
from shared.contract.callback import CompletedPayload, FailedPayload, ProcessingMetadata, ProcessingPayload
from shared.contract.request import Identity, Request
from shared.errors import JobError, UploadError, ValidationError
from shared.jobs.recipe import Summary
from shared.telemetry import StepTimer


def completed(
    identity: Identity,
    request: Request,
    worker_id: str,
    assets: Sequence[Asset],
    summary: Summary,
    timer: StepTimer,
    warnings: Sequence[str],
) -> CompletedPayload:
    """Builds the payload of a job whose assets all exist.

    Args:
        identity: Has RunPod's id of the job.
        request: The request of the job.
        worker_id: This worker.
        assets: The stored outputs.
        summary: The handler's part.
        timer: Has measured the steps of the job.
        warnings: Those of the request and of the run.
    """
    timings = timer.seconds
    metadata: dict[str, Any] = {
        "job_type": request.type,
        "runpod_id": identity.runpod_id,
        **summary.metadata,
        **_video_facts(assets),
        "generation_time": timings["generate"],
        "processing_time": round(timer.total, 3),
        "timings": timings,
        "warnings": [*warnings, *summary.warnings],
    }
    job = {"job_id": request.job_id, "worker_id": worker_id, "completed_at": _now()}
    return CompletedPayload.model_validate({**job, "assets": tuple(assets), "metadata": metadata, **summary.top_level})


def _video_facts(assets: Sequence[Asset]) -> dict[str, JsonValue]:
    """Returns the length of the clip, which receivers read in the metadata of the payload."""
    clips = [asset for asset in assets if isinstance(asset, VideoAsset)]
    return {
        key: value
        for clip in clips[:1]
        for key, value in (("frame_num", clip.metadata.frames), ("fps", clip.metadata.fps), ("duration_seconds", clip.duration_seconds))
    }


def failed(identity: Identity, worker_id: str, error: JobError, timer: StepTimer, warnings: Sequence[str] = ()) -> FailedPayload:
    """Builds the payload of a job without a result.

    Args:
        identity: What is known of the job, whose request may be invalid.
        worker_id: This worker.
        error: The reason.
        timer: Has measured the steps of the job.
        warnings: Those of the request and of the run. A `ValidationError` has its own.
    """
    metadata: dict[str, Any] = {
        "runpod_id": identity.runpod_id,
        "error_code": error.code,
        "error_type": type(error).__name__,
        "retryable": error.retryable,
        "processing_time": round(timer.total, 3),
        "timings": timer.seconds,
        "warnings": list(error.warnings if isinstance(error, ValidationError) else warnings),
    }
    if identity.job_type is not None:
        metadata["job_type"] = identity.job_type
    if isinstance(error, ValidationError):
        metadata["problems"] = list(error.problems)
    if isinstance(error, UploadError) and error.pending:
        metadata["assets_pending"] = list(error.pending)
    job = {"job_id": identity.job_id, "worker_id": worker_id, "completed_at": _now()}
    return FailedPayload.model_validate({**job, "error_message": error.message, "metadata": metadata})


def processing(identity: Identity, worker_id: str) -> ProcessingPayload:
    """Builds the payload of a job that has started."""
    metadata = ProcessingMetadata(runpod_id=identity.runpod_id, job_type=identity.job_type)
    return ProcessingPayload(job_id=identity.job_id, worker_id=worker_id, metadata=metadata)


def _now() -> datetime:
    return datetime.now(UTC)
