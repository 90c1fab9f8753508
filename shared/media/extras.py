"""What may be stored beside a clip: its first frame as a picture, the clip in a free format, and a small one that moves in any picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from PIL import Image

from shared.media.images import IMAGE_TYPES, Pixels, encode_image
from shared.media.videos import open_container, open_stream, write_frame

if TYPE_CHECKING:
    from av.video.stream import VideoStream

ExtraKind = Literal["poster", "webm", "gif"]
"""What there may be."""

Take = Callable[[Pixels], None]


@dataclass(frozen=True, slots=True)
class ExtraType:
    """How an extra is called outside, and how it is written.

    Attributes:
        ending: Of its key, behind the number of the clip's asset.
        mime: Its media type.
        writer: Opens its file, given a path and the frames per second; takes frame after frame; the file is whole when it is closed.
    """

    ending: str
    mime: str
    writer: Callable[[Path, int], AbstractContextManager[Take]]


_GIF_LONGEST = 320  # pixels
_GIF_MOST_FPS = 12
_GIF_TICK = 10  # milliseconds; GIF counts in hundredths of a second
# VP9 at a constant quality that looks like x264's at 18; `bitexact` keeps a random id out of the file, so that the same frames give the
# same bytes.
_VP9 = {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1", "threads": "8", "auto-alt-ref": "1"}
_WEBM = {"fflags": "+bitexact", "cues_to_front": "1"}


def tee_extras(frames: Iterable[Pixels], kinds: Sequence[ExtraKind], folder: Path, *, fps: int) -> Iterator[Pixels]:
    """Hands a clip's frames on and writes extras as they pass, so that the clip is not held for them.

    Args:
        frames: Each height × width × 3, all of one size.
        kinds: What is to be written.
        folder: Where; `extra_path` says under which names. The files are whole when the frames are at their end.
        fps: Frames per second of the clip.

    Raises:
        OSError: The disk or an encoder refused.
    """
    with ExitStack() as stack:
        takers = [stack.enter_context(EXTRA_TYPES[kind].writer(extra_path(folder, kind), fps)) for kind in kinds]
        for frame in frames:
            for take in takers:
                take(frame)
            yield frame


def extra_path(folder: Path, kind: ExtraKind) -> Path:
    """Where `tee_extras` writes an extra."""
    return folder / f"extra.{EXTRA_TYPES[kind].ending}"


@contextmanager
def _poster(path: Path, _fps: int) -> Iterator[Take]:
    def take(frame: Pixels) -> None:
        if not path.exists():
            path.write_bytes(encode_image(frame, "png"))

    yield take


@contextmanager
def _webm(path: Path, fps: int) -> Iterator[Take]:
    with open_container(path, "webm", _WEBM) as container:
        streams: list[VideoStream] = []

        def take(frame: Pixels) -> None:
            if not streams:
                streams.append(open_stream(container, frame, fps, "libvpx-vp9", _VP9))
            write_frame(container, streams[0], frame)

        yield take
        for stream in streams:
            container.mux(stream.encode(None))


@contextmanager
def _gif(path: Path, fps: int) -> Iterator[Take]:
    step = math.ceil(fps / _GIF_MOST_FPS)
    shown: list[Image.Image] = []
    count = 0

    def take(frame: Pixels) -> None:
        nonlocal count
        if count % step == 0:
            small = Image.fromarray(frame)
            small.thumbnail((_GIF_LONGEST, _GIF_LONGEST), Image.Resampling.LANCZOS)
            shown.append(small.quantize(256))
        count += 1

    yield take
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
"""Every kind. `poster` is the first frame, so that nothing jumps when a player begins; `gif` has at most 12 frames per second and 320
pixels on a side."""
