"""Turns outputs into assets: encodes them, uploads them, and describes what was stored."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.contract.assets import Asset, ExtraFile, ImageAsset, TextAsset, TextMetadata, VideoAsset
from shared.contract.request import Request
from shared.errors import UploadError
from shared.jobs.delivery.uploads import UploadSession
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.recipe import ImageOutput, Output, TextOutput, VideoOutput
from shared.media.encoding import IMAGE_TYPES, THUMBNAIL_MIME, encode_image, thumbnail
from shared.media.extras import EXTRA_TYPES, ExtraKind, extra_path, tee_extras
from shared.media.images import Pixels
from shared.media.videos import VIDEO_EXTENSION, VIDEO_MIME, write_video
from shared.storage.protocol import StoredObject, object_key
from shared.telemetry import StepTimer


@dataclass(frozen=True)
class EncodedOutput:
    """An output as files, ready to be uploaded.

    Attributes:
        content: The bytes, or the file that holds them.
        type: Its MIME type and its extension.
        thumbnail: WebP.
        facts: Measured from the result: width, height, format, and for a clip its frames and their rate.
        extras: The additional files of a clip.
    """

    content: bytes | Path = field(repr=False)
    type: tuple[str, str]
    thumbnail: bytes = field(repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[ExtraKind, Path] = field(default_factory=dict)


def store_output(output: Output, index: int, request: Request, uploads: UploadSession, token: CancelToken, timer: StepTimer) -> Asset:
    """Encodes one output, stores it with its thumbnail, and returns the asset that describes it.

    Args:
        output: Its frames may still be produced while they are encoded.
        index: Its position among the job's assets.
        request: Supplies the ids that the storage keys are built from.
        uploads: The job's upload session.
        token: Checked between the steps; also limits uploads to the time that the job has left.
        timer: Measures the steps `encode` and `upload`.

    Raises:
        UploadError: Neither storage nor the outbox took it.
        Cancelled: The job was cancelled.
        JobTimeout: The job's deadline has passed.
    """
    if isinstance(output, TextOutput):
        return TextAsset(asset_index=index, content=output.content, metadata=TextMetadata.model_validate(output.metadata))
    with tempfile.TemporaryDirectory(prefix="job-") as folder:
        with timer.step("encode"):
            encoded = _encode(output, Path(folder))
        token.check()
        with timer.step("upload"), _within_deadline(token, uploads):
            upload = _AssetUpload(index, request, uploads, token)
            stored = upload.put(encoded.type[1], encoded.content, encoded.type[0])
            thumb = upload.put("thumb.webp", encoded.thumbnail, THUMBNAIL_MIME)
            extras = tuple(_store_extra(kind, path, upload) for kind, path in encoded.extras.items())
    return _describe(output, index, encoded, stored, thumb, extras, uploads.presigned_url)


def _encode(output: ImageOutput | VideoOutput, folder: Path) -> EncodedOutput:
    if isinstance(output, ImageOutput):
        height, width, _ = output.pixels.shape
        content = encode_image(output.pixels, output.format)
        facts = {"width": width, "height": height, "format": output.format}
        return EncodedOutput(content, IMAGE_TYPES[output.format], thumbnail(output.pixels), facts)
    path = folder / "clip.mp4"
    with _closed_on_exit(output.frames) as frames:
        passed = tee_extras(frames, output.extras, folder, fps=output.fps)
        video = write_video(passed, path, fps=output.fps, encoding=output.encoding)
    facts = {
        "width": video.width,
        "height": video.height,
        "format": "mp4",
        "frames": video.frames,
        "frame_num": video.frames,
        "fps": video.fps,
        "duration": video.duration_seconds,
    }
    extras = {kind: extra_path(folder, kind) for kind in output.extras}
    return EncodedOutput(path, (VIDEO_MIME, VIDEO_EXTENSION), thumbnail(video.middle), facts, extras)


def _describe(
    output: ImageOutput | VideoOutput,
    index: int,
    encoded: EncodedOutput,
    stored: StoredObject,
    thumb: StoredObject,
    extras: tuple[ExtraFile, ...],
    urls: Callable[[str], str | None],
) -> Asset:
    facts = {**encoded.facts, **output.metadata, "seed": output.seed, "file_size_bytes": stored.size, "asset_index": index}
    described = {
        "asset_index": index,
        "url": stored.key,
        "temp_storage_path": stored.key,
        "thumbnail_url": thumb.key,
        "thumbnail_path": thumb.key,
        "presigned_url": urls(stored.key),
        "thumbnail_presigned_url": urls(thumb.key),
        "data": stored.data,
        "thumbnail_data": thumb.data,
        "mime_type": encoded.type[0],
        "file_size_bytes": stored.size,
        "generation_seed": output.seed,
        "metadata": facts,
    }
    if isinstance(output, VideoOutput):
        return VideoAsset.model_validate({**described, "duration_seconds": encoded.facts["duration"], "extras": extras or None})
    return ImageAsset.model_validate(described)


@contextmanager
def _closed_on_exit(frames: Iterable[Pixels]) -> Iterator[Iterator[Pixels]]:
    """Closes the iterator of the frames on exit, which tells their producer to stop. The traceback of an error would keep it alive."""
    iterator = iter(frames)
    try:
        yield iterator
    finally:
        if isinstance(iterator, Generator):
            iterator.close()


@dataclass(frozen=True)
class _AssetUpload:
    """Stores the files of one asset."""

    index: int
    request: Request
    uploads: UploadSession
    token: CancelToken

    def put(self, extension: str, content: bytes | Path, mime_type: str) -> StoredObject:
        key = object_key(self.request.user_id or "", self.request.job_id, f"{self.index}.{extension}")
        return self.uploads.put(key, content, mime_type, seconds=self.token.remaining)


def _store_extra(kind: ExtraKind, path: Path, upload: _AssetUpload) -> ExtraFile:
    upload.token.check()
    stored = upload.put(EXTRA_TYPES[kind].extension, path, EXTRA_TYPES[kind].mime)
    return ExtraFile(
        kind=kind,
        url=stored.key,
        presigned_url=upload.uploads.presigned_url(stored.key),
        data=stored.data,
        mime_type=EXTRA_TYPES[kind].mime,
        file_size_bytes=stored.size,
    )


@contextmanager
def _within_deadline(token: CancelToken, uploads: UploadSession) -> Iterator[None]:
    """Reports a failed or late upload as a timeout if the deadline has passed. Files in the outbox are exempt: they will be delivered."""
    try:
        yield
    except UploadError:
        token.check()
        raise
    if not uploads.uses_outbox:
        token.check()
