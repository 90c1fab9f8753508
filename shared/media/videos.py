"""Clips: frames become H.264 in MP4, as every browser plays it."""

from __future__ import annotations

import errno
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal

import numpy as np

from shared.media.images import Pixels

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

VIDEO_MIME, VIDEO_EXTENSION = "video/mp4", "mp4"

Encoder = Literal["libx264", "h264_nvenc"]
Codec = Encoder | Literal["libvpx-vp9"]

QUALITY: Final = 18
"""At x264's constant rate factor of 18 a clip looks like its frames."""

_OPTIONS: Final[Mapping[Encoder, Mapping[str, str]]] = {
    # So that the same frames give the same bytes. How x264 shares out the work changes what it writes, so the number of threads is
    # fixed; and its macroblock tree, whose fast code varies from run to run, is off. Real clips are no larger without it.
    "libx264": {"preset": "veryfast", "threads": "8", "x264-params": "mbtree=0"},
    # NVIDIA's own preset for quality before speed, with a quality that is constant like x264's.
    "h264_nvenc": {"preset": "p5", "rc": "vbr", "b:v": "0"},
}
_QUALITY_OPTION: Final[Mapping[Encoder, str]] = {"libx264": "crf", "h264_nvenc": "cq"}
_SIZE_STEP = 16
_BT709 = 1
_LIMITED_RANGE = 1


@dataclass(frozen=True, slots=True)
class Encoding:
    """How clips are written.

    Attributes:
        encoder: `libx264` on the CPU, or `h264_nvenc` on an NVIDIA GPU that has an encoder.
        quality: 1, the best, … 51.
    """

    encoder: Encoder = "libx264"
    quality: int = QUALITY


STANDARD: Final = Encoding()
"""What runs everywhere."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a written file really holds.

    Attributes:
        width: Pixels.
        height: Pixels.
        frames: How many.
        fps: Frames per second, constant.
        duration_seconds: `frames / fps`.
        size_bytes: Of the file.
        middle: The frame in the middle, height × width × 3, for a thumbnail.
    """

    width: int
    height: int
    frames: int
    fps: int
    duration_seconds: float
    size_bytes: int
    middle: Pixels = field(repr=False, compare=False)


def check_encoder(encoding: Encoding = STANDARD) -> None:
    """Proves that clips can be written on this machine, by writing one.

    Raises:
        RuntimeError: They cannot. The message says what is missing.
    """
    black = np.zeros((256, 256, 3), np.uint8)  # encoders of GPUs refuse much smaller ones
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_video([black], Path(folder) / "0.mp4", fps=8, encoding=encoding)
    except (ImportError, OSError, ValueError) as error:  # PyAV's errors are of these
        raise RuntimeError(
            f"Clips cannot be written: PyAV with the encoder {encoding.encoder} is needed. Install the requirements of the WAN image, or "
            "choose another VIDEO_ENCODER."
        ) from error


def write_video(frames: Iterable[Pixels], path: Path, *, fps: int, encoding: Encoding = STANDARD) -> VideoInfo:
    """Writes a clip that starts to play before it is loaded. The same frames always give the same bytes.

    Args:
        frames: Each height × width × 3, RGB, all of one size; width and height multiples of 16. They are taken one by one, and not all are
            kept: at most the later half of what has come. A frame must not be changed after it was handed over.
        path: The file to write, over what is there. When writing fails, nothing is left of it.
        fps: Frames per second, 1 or more.
        encoding: With which encoder, and how well.

    Returns:
        What the file holds.

    Raises:
        ValueError: There are no frames, or one has a wrong type or size.
        OSError: The disk refused.
    """
    middle = _Middle()
    with _removed_on_failure(path):
        _encode(middle.watch(frames), path, fps, encoding)
    height, width, _ = middle.frame.shape
    return VideoInfo(width, height, middle.count, fps, middle.count / fps, path.stat().st_size, middle.frame)


class _Middle:
    """Finds the frame in the middle of frames of which nobody knows how many will come."""

    def __init__(self) -> None:
        self.count = 0
        self._kept: deque[Pixels] = deque()

    def watch(self, frames: Iterable[Pixels]) -> Iterator[Pixels]:
        for frame in frames:
            self._kept.append(frame)
            self.count += 1
            if self.count % 2 == 0:
                self._kept.popleft()
            yield frame

    @property
    def frame(self) -> Pixels:
        return self._kept[0]


@contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    written = False
    try:
        yield
        written = True
    finally:
        if not written:
            path.unlink(missing_ok=True)


def _encode(frames: Iterator[Pixels], path: Path, fps: int, encoding: Encoding) -> None:
    # PyAV itself, because what imageio's plugin for it lets one choose ends before the quality, the threads and the tags of the colours.
    first = next(frames, None)
    if first is None:
        raise ValueError("A clip needs at least one frame.")
    # `faststart` moves the index to the front, so that a browser does not need the end of the file first. In the default time scale, of
    # milliseconds, the length of most clips would be rounded.
    options = {"movflags": "+faststart", "movie_timescale": str(1000 * fps)}
    settings = {_QUALITY_OPTION[encoding.encoder]: str(encoding.quality), **_OPTIONS[encoding.encoder]}
    with open_container(path, "mp4", options) as container:
        stream = open_stream(container, _checked(first, first), fps, encoding.encoder, settings)
        write_frame(container, stream, first)
        for frame in frames:
            write_frame(container, stream, _checked(frame, first))
        container.mux(stream.encode(None))


def _checked(frame: Pixels, first: Pixels) -> Pixels:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"A frame must be uint8 and height × width × 3, not {frame.dtype} of shape {frame.shape}.")
    if frame.shape != first.shape:
        raise ValueError(f"All frames of a clip have one size; after {first.shape} came {frame.shape}.")
    if frame.shape[0] % _SIZE_STEP or frame.shape[1] % _SIZE_STEP or not frame.size:
        raise ValueError(f"Width and height of a clip must be multiples of {_SIZE_STEP}, not {frame.shape[1]} × {frame.shape[0]}.")
    return frame


@contextmanager
def open_container(path: Path, format: str, options: Mapping[str, str]) -> Iterator[OutputContainer]:
    """Opens a file for streams. However that ends the file is closed: FFmpeg alone leaves it open when it cannot end it, and what was
    removed then still takes its place on the disk.

    Args:
        path: The file to write, over what is there.
        format: What FFmpeg calls the kind of file.
        options: Of that.
    """
    import av

    with path.open("wb", buffering=0) as file, ExitStack() as again:

        def read_again(_url: str, _flags: int, _options: object) -> BinaryIO:
            """For what moves the index to the front."""
            return again.enter_context(path.open("rb"))

        with av.open(_Sink(file), "w", format=format, options=dict(options), io_open=read_again) as container:
            yield container


class _Sink:
    """A file that refuses as FFmpeg's own do, by numbers below zero: an exception PyAV would print, or keep for who comes next."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def write(self, content: bytes) -> int:
        left = memoryview(content)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            return -(error.errno or errno.EIO)
        return len(content)


def open_stream(container: OutputContainer, like: Pixels, fps: int, codec: Codec, options: Mapping[str, str]) -> VideoStream:
    """Adds a stream to a file: frames of the size of `like`, constant rate, yuv420p, colours of BT.709 and tagged so.

    Args:
        container: Open for writing.
        like: The first frame, height × width × 3.
        fps: Frames per second.
        codec: What PyAV calls the encoder.
        options: Of the encoder.
    """
    stream = container.add_stream(codec, rate=fps, options=dict(options))
    stream.height, stream.width, _ = like.shape
    stream.pix_fmt = "yuv420p"
    # Without these tags a player guesses by the size of the picture, and small clips come out with other colours.
    colours = stream.codec_context
    colours.colorspace = colours.color_primaries = colours.color_trc = _BT709
    colours.color_range = _LIMITED_RANGE
    return stream


def write_frame(container: OutputContainer, stream: VideoStream, frame: Pixels) -> None:
    """Encodes one frame, height × width × 3, for a stream of `open_stream`, and writes what is ready."""
    import av

    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    converted = picture.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED_RANGE)
    container.mux(stream.encode(converted))
