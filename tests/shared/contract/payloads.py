"""Payloads of every kind, for tests."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from handlers.chat.payload import ChatCompleted
from handlers.sdxl.payload import SdxlCompleted
from handlers.wan.payload import WanCompleted
from shared.contract.assets import ImageAsset, TextAsset, VideoAsset
from shared.contract.callback import WORKER_VERSION, BaseCompleted, CompletedPayload, FailedPayload, ProcessingMetadata, ProcessingPayload
from shared.errors import Problem

AnyPayload = BaseCompleted | FailedPayload | ProcessingPayload

ENDED = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
JOB: dict[str, Any] = {"job_id": "J", "worker_id": "sdxl_worker_local", "completed_at": ENDED}
CLEARED: dict[str, Any] = dict.fromkeys(("error_code", "error_type", "retryable", "assets_pending"))
DONE: dict[str, Any] = {
    "runpod_id": "run-1",
    "worker_version": WORKER_VERSION,
    "processing_time": 15.2,
    "generation_time": 14.1,
    "timings": {"validate": 0.001, "generate": 14.1},
    "warnings": [],
    **CLEARED,
}
PICTURES: dict[str, Any] = {"enhancement_source": "none", "compel_enhancement": False, "reference_mode": "none", "exact_copy_mode": False}
SDXL = {"job_type": "sdxl_image_high", "model_used": "sdxl", "vram_used": 8192, **PICTURES, **DONE}
WAN = {"job_type": "video_fast", "model_used": "wan", "auto_enhancement": False, **PICTURES, **DONE}
CHAT = {
    "job_type": "chat",
    "model_used": "qwen_instruct",
    "enhancement_type": None,
    "sfw_mode": False,
    "system_prompt_used": "none",
    **DONE,
}
TOP_LEVEL: dict[str, Any] = {
    "success": True,
    "response": "Paris.",
    "tokens_generated": 3,
    "generation_time": 0.2,
    "model_info": {"model": "qwen_instruct", "context_length": 32768},
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
}


def image(index: int = 0, **changes: Any) -> ImageAsset:
    return ImageAsset(**_stored(index, "png", "image/png") | changes)


def video(index: int = 0, **changes: Any) -> VideoAsset:
    stored = _stored(index, "mp4", "video/mp4")
    stored["metadata"] |= {"frames": 9, "frame_num": 9, "fps": 8, "duration": 1.125}
    return VideoAsset(**stored, duration_seconds=1.125, **changes)


def text(index: int = 0) -> TextAsset:
    answer = {"tokens_generated": 3, "prompt_tokens": 9, "model_used": "qwen_instruct", "generation_time": 0.2, "finish_reason": "stop"}
    return TextAsset.model_validate({"asset_index": index, "content": "Paris.", "metadata": answer})


def _stored(index: int, extension: str, mime_type: str) -> dict[str, Any]:
    key, preview = f"U/J/{index}.{extension}", f"U/J/{index}.thumb.webp"
    repeated = {"seed": 5 + index, "file_size_bytes": 1000, "asset_index": index}
    return {
        "asset_index": index,
        "url": key,
        "temp_storage_path": key,
        "thumbnail_url": preview,
        "thumbnail_path": preview,
        "mime_type": mime_type,
        "file_size_bytes": 1000,
        "generation_seed": 5 + index,
        "metadata": {"width": 64, "height": 64, "format": extension, "batch_size": 1, "steps": 10, "guidance_scale": 7.5, **repeated},
    }


def completed(*assets: Any, metadata: dict[str, Any] | None = None, **top_level: Any) -> CompletedPayload:
    return CompletedPayload.model_validate({**JOB, "assets": assets, "metadata": SDXL if metadata is None else metadata, **top_level})


def sdxl() -> SdxlCompleted:
    return SdxlCompleted.model_validate({**JOB, "assets": (image(0), image(1)), "metadata": SDXL})


def wan() -> WanCompleted:
    return WanCompleted.model_validate({**JOB, "assets": (video(),), "metadata": WAN})


def chat() -> ChatCompleted:
    return ChatCompleted.model_validate({**JOB, "assets": (text().model_dump(),), "metadata": CHAT, **TOP_LEVEL})


def failed() -> FailedPayload:
    details = {
        "runpod_id": "run-1",
        "error_code": "VALIDATION_ERROR",
        "error_type": "ValidationError",
        "retryable": False,
        "processing_time": 0.001,
        "timings": {},
    }
    problems = [Problem("config.steps", "99", "a whole number from 10 to 50", "50")]
    return FailedPayload.model_validate({**JOB, "error_message": "No.", "metadata": {**details, "warnings": [], "problems": problems}})


def processing() -> ProcessingPayload:
    return ProcessingPayload(job_id="J", worker_id="sdxl_worker_local", metadata=ProcessingMetadata(runpod_id="run-1"))
