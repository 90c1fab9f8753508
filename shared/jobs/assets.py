"""Products become assets: encode, upload, describe."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.contract.assets import ExtraFile
from shared.contract.callback import Asset, ImageAsset, TextAsset, TextMetadata, VideoAsset
from shared.contract.request import Request
from shared.errors import UploadError
from shared.jobs.delivery.uploads import Parcel
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.recipe import Clip, Picture, Product, Text
from shared.media.extras import EXTRAS, ExtraKind, extra_path, passing
from shared.media.images import IMAGE_TYPES, Pixels, encode_image, thumbnail
from shared.media.videos import VIDEO_EXTENSION, VIDEO_MIME, write_video
from shared.storage.protocol import Stored, object_key
from shared.telemetry import Clock

_WEBP = IMAGE_TYPES["webp"].mime


@dataclass(frozen=True)
class Encoded:
    """A product as files, on their way to storage.

    Attributes:
        content: The bytes, or the file that has them.
        type: Its MIME type and its extension.
        preview: The thumbnail, WebP.
        facts: What was really made: width, height, format, and for a clip its frames and their rate.
        extras: What was asked for beside a clip, as files.
    """

    content: bytes | Path = field(repr=False)
    type: tuple[str, str]
    preview: bytes = field(repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[ExtraKind, Path] = field(default_factory=dict)


def store(product: Product, index: int, request: Request, parcel: Parcel, token: CancelToken, clock: Clock) -> Asset:
    """Encodes one product, stores it with its thumbnail, and says where it is.

    Args:
        product: What was made.
        index: Its place among the job's assets.
        request: Whose it is.
        parcel: Where it goes.
        token: Ends it between its steps, and limits the upload to the time that the job has left.
        clock: Counts the steps `encode` and `upload`.

    Raises:
        UploadError: It could be neither stored nor kept.
        Cancelled: The job was stopped.
        JobTimeout: The job's deadline has passed.
    """
    if isinstance(product, Text):
        return TextAsset(asset_index=index, content=product.content, metadata=TextMetadata.model_validate(product.metadata))
    with tempfile.TemporaryDirectory(prefix="job-") as folder:
        with clock.step("encode"):
            encoded = _encode(product, Path(folder))
        token.check()
        with clock.step("upload"), _in_time(token, parcel):
            upload = _Upload(index, request, parcel, token)
            stored = upload.put(encoded.type[1], encoded.content, encoded.type[0])
            preview = upload.put("thumb.webp", encoded.preview, _WEBP)
            extras = tuple(_store_extra(kind, path, upload) for kind, path in encoded.extras.items())
    return _describe(product, index, encoded, stored, preview, extras)


def _encode(product: Picture | Clip, folder: Path) -> Encoded:
    if isinstance(product, Picture):
        height, width, _ = product.pixels.shape
        content = encode_image(product.pixels, product.format)
        facts = {"width": width, "height": height, "format": product.format}
        return Encoded(content, IMAGE_TYPES[product.format], thumbnail(product.pixels), facts)
    path = folder / "clip.mp4"
    with _left_at_once(product.frames) as frames:
        passed = passing(frames, product.extras, folder, fps=product.fps)
        video = write_video(passed, path, fps=product.fps, encoding=product.encoding)
    facts = {
        "width": video.width,
        "height": video.height,
        "format": "mp4",
        "frames": video.frames,
        "frame_num": video.frames,
        "fps": video.fps,
        "duration": video.duration_seconds,
    }
    extras = {kind: extra_path(folder, kind) for kind in product.extras}
    return Encoded(path, (VIDEO_MIME, VIDEO_EXTENSION), thumbnail(video.middle), facts, extras)


def _describe(
    product: Picture | Clip, index: int, encoded: Encoded, stored: Stored, preview: Stored, extras: tuple[ExtraFile, ...]
) -> Asset:
    facts = {**encoded.facts, **product.metadata, "seed": product.seed, "file_size_bytes": stored.size, "asset_index": index}
    described = {
        "asset_index": index,
        "url": stored.key,
        "temp_storage_path": stored.key,
        "thumbnail_url": preview.key,
        "thumbnail_path": preview.key,
        "mime_type": encoded.type[0],
        "file_size_bytes": stored.size,
        "generation_seed": product.seed,
        "metadata": facts,
    }
    if isinstance(product, Clip):
        return VideoAsset.model_validate({**described, "duration_seconds": encoded.facts["duration"], "extras": extras or None})
    return ImageAsset.model_validate(described)


@contextmanager
def _left_at_once(frames: Iterable[Pixels]) -> Iterator[Iterator[Pixels]]:
    """Stops reading as soon as the body ends, so that who makes the frames makes no more: an error would keep the reader alive."""
    reading = iter(frames)
    try:
        yield reading
    finally:
        if isinstance(reading, Generator):
            reading.close()


@dataclass(frozen=True)
class _Upload:
    """Stores the files of one asset."""

    index: int
    request: Request
    parcel: Parcel
    token: CancelToken

    def put(self, ending: str, content: bytes | Path, mime_type: str) -> Stored:
        key = object_key(self.request.user_id or "", self.request.job_id, f"{self.index}.{ending}")
        return self.parcel.put(key, content, mime_type, seconds=self.token.left)


def _store_extra(kind: ExtraKind, path: Path, upload: _Upload) -> ExtraFile:
    upload.token.check()
    stored = upload.put(EXTRAS[kind].ending, path, EXTRAS[kind].mime)
    return ExtraFile(kind=kind, url=stored.key, mime_type=EXTRAS[kind].mime, file_size_bytes=stored.size)


@contextmanager
def _in_time(token: CancelToken, parcel: Parcel) -> Iterator[None]:
    """Says that the job's time is over where that is why an upload failed; but not of what is kept, for that will be delivered."""
    try:
        yield
    except UploadError:
        token.check()
        raise
    if not parcel.keeps:
        token.check()
