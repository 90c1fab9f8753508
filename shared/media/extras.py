"""Additional files derived from a clip: its first frame as PNG, the clip as WebM, a small animated GIF."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from PIL import Image

from shared.media.encoding import IMAGE_TYPES, encode_image
from shared.media.images import Pixels
from shared.media.videos import FrameWriter, open_container, open_stream

ExtraKind = Literal["poster", "webm", "gif"]
"""The kinds of additional files."""

FrameSink = Callable[[Pixels], None]


@dataclass(frozen=True, slots=True)
class ExtraType:
    """The file type of an extra, and its writer.

    Attributes:
        extension: Appended to the index of the clip's asset in the object key.
        mime: The MIME type.
        writer: Opens a file, given its path and the frames per second, and yields a sink for frames. The file is complete when it closes.
    """

    extension: str
    mime: str
    writer: Callable[[Path, int], AbstractContextManager[FrameSink]]


_GIF_MAX_SIDE = 320  # pixels
_GIF_MAX_FPS = 12
_GIF_TICK = 10  # milliseconds; GIF durations are multiples of 1/100 s
# VP9 at a constant quality comparable to x264's CRF 18. `bitexact` omits a random id, so that the output is deterministic.
_VP9 = {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1", "threads": "8", "auto-alt-ref": "1"}
_WEBM = {"fflags": "+bitexact", "cues_to_front": "1"}


def tee_extras(frames: Iterable[Pixels], kinds: Sequence[ExtraKind], folder: Path, *, fps: int) -> Iterator[Pixels]:
    """Yields a clip's frames unchanged and writes extras along the way, so that the clip need not be kept in memory.

    Args:
        frames: Each height × width × 3, all of one size.
        kinds: The extras to write.
        folder: Their folder; `extra_path` returns the paths. The files are complete once the frames are exhausted.
        fps: Frames per second of the clip.

    Raises:
        OSError: The disk or an encoder failed.
    """
    with ExitStack() as stack:
        sinks = [stack.enter_context(EXTRA_TYPES[kind].writer(extra_path(folder, kind), fps)) for kind in kinds]
        for frame in frames:
            for sink in sinks:
                sink(frame)
            yield frame


def extra_path(folder: Path, kind: ExtraKind) -> Path:
    """Returns the path where `tee_extras` writes an extra."""
    return folder / f"extra.{EXTRA_TYPES[kind].extension}"


@contextmanager
def _poster(path: Path, _fps: int) -> Iterator[FrameSink]:
    def write(frame: Pixels) -> None:
        if not path.exists():
            path.write_bytes(encode_image(frame, "png"))

    yield write


@contextmanager
def _webm(path: Path, fps: int) -> Iterator[FrameSink]:
    with open_container(path, "webm", _WEBM) as container:
        writers: list[FrameWriter] = []

        def write(frame: Pixels) -> None:
            if not writers:
                writers.append(FrameWriter(container, open_stream(container, frame, fps, "libvpx-vp9", _VP9)))
            writers[0].write(frame)

        yield write
        for writer in writers:
            writer.flush()


@contextmanager
def _gif(path: Path, fps: int) -> Iterator[FrameSink]:
    step = math.ceil(fps / _GIF_MAX_FPS)
    shown: list[Image.Image] = []
    count = 0

    def write(frame: Pixels) -> None:
        nonlocal count
        if count % step == 0:
            small = Image.fromarray(frame)
            small.thumbnail((_GIF_MAX_SIDE, _GIF_MAX_SIDE), Image.Resampling.LANCZOS)
            shown.append(small.quantize(256))
        count += 1

    yield write
    if shown:
        starts = [round(1000 * index / fps / _GIF_TICK) for index in range(0, count, step)] + [round(1000 * count / fps / _GIF_TICK)]
        lengths = [_GIF_TICK * (end - start) for start, end in pairwise(starts)]
        shown[0].save(path, format="gif", save_all=True, append_images=shown[1:], duration=lengths, loop=0)


EXTRA_TYPES: Mapping[ExtraKind, ExtraType] = MappingProxyType(
    {
        "poster": ExtraType("poster.png", IMAGE_TYPES["png"].mime, _poster),
        "webm": ExtraType("webm", "video/webm", _webm),
        "gif": ExtraType("preview.gif", "image/gif", _gif),
    }
)
"""All kinds. `poster` is the first frame, so that playback starts without a visible jump; `gif` has at most 12 frames per second and 320
pixels per side."""
