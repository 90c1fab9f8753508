"""Encodes frames as H.264 in MP4, which every browser plays."""

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
"""The constant rate factor at which x264 is visually lossless."""

_OPTIONS: Final[Mapping[Encoder, Mapping[str, str]]] = {
    # For deterministic output: the number of threads, which affects the result, is fixed, and x264 takes no algorithm whose result depends
    # on the processor; that of its macroblock tree varies even from run to run. Each thread has a frame of its own: PyAV's default, slices
    # of one frame, takes half as many bytes again.
    "libx264": {"preset": "veryfast", "threads": "2", "thread_type": "frame", "x264-params": "cpu-independent=1"},
    # NVIDIA's preset for quality over speed, with constant quality like x264's.
    "h264_nvenc": {"preset": "p5", "rc": "vbr", "b:v": "0"},
}
_QUALITY_OPTION: Final[Mapping[Encoder, str]] = {"libx264": "crf", "h264_nvenc": "cq"}
_SIZE_STEP = 16
_BT709 = 1
_LIMITED_RANGE = 1


@dataclass(frozen=True, slots=True)
class Encoding:
    """The settings of the video encoder.

    Attributes:
        encoder: `libx264` on the CPU, or `h264_nvenc` on an NVIDIA GPU with a hardware encoder.
        quality: 1 (best) … 51.
    """

    encoder: Encoder = "libx264"
    quality: int = QUALITY


DEFAULT_ENCODING: Final = Encoding()
"""Settings that every machine supports."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """The properties of a written file.

    Attributes:
        width: Pixels.
        height: Pixels.
        frames: Number of frames.
        fps: Frames per second, constant.
        duration_seconds: `frames / fps`.
        size_bytes: Size of the file.
        middle: The frame in the middle, height × width × 3, for a thumbnail.
    """

    width: int
    height: int
    frames: int
    fps: int
    duration_seconds: float
    size_bytes: int
    middle: Pixels = field(repr=False, compare=False)


def check_encoder(encoding: Encoding = DEFAULT_ENCODING) -> None:
    """Checks that the encoder works on this machine, by encoding one frame.

    Raises:
        RuntimeError: It does not. The message says what is missing.
    """
    black = np.zeros((256, 256, 3), np.uint8)  # hardware encoders reject much smaller frames
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_video([black], Path(folder) / "0.mp4", fps=8, encoding=encoding)
    except (ImportError, OSError, ValueError) as error:  # the base classes of PyAV's errors
        raise RuntimeError(
            f"Videos cannot be encoded: PyAV with the encoder {encoding.encoder} is required. Install the requirements of the WAN image "
            "or choose another VIDEO_ENCODER."
        ) from error


def write_video(frames: Iterable[Pixels], path: Path, *, fps: int, encoding: Encoding = DEFAULT_ENCODING) -> VideoInfo:
    """Encodes a clip deterministically, for progressive playback.

    Args:
        frames: Each height × width × 3, RGB, all of one size; width and height multiples of 16. They are consumed one by one; at most the
            later half is kept in memory. A frame must not be modified after it was yielded.
        path: The file to write or overwrite. It is deleted if encoding fails.
        fps: Frames per second, 1 or more.
        encoding: The encoder settings.

    Returns:
        The properties of the file.

    Raises:
        ValueError: There are no frames, or one has an invalid type or size.
        OSError: The write failed.
    """
    middle = _MiddleFrame()
    with _removed_on_failure(path):
        _encode(middle.track(frames), path, fps, encoding)
    height, width, _ = middle.frame.shape
    return VideoInfo(width, height, middle.count, fps, middle.count / fps, path.stat().st_size, middle.frame)


class _MiddleFrame:
    """Finds the middle frame of a stream of unknown length."""

    def __init__(self) -> None:
        self.count = 0
        self._kept: deque[Pixels] = deque()

    def track(self, frames: Iterable[Pixels]) -> Iterator[Pixels]:
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
    # PyAV directly: imageio's plugin for it does not expose quality, threads and colour tags.
    first = next(frames, None)
    if first is None:
        raise ValueError("A clip needs at least one frame.")
    # `faststart` moves the index to the front, so that a browser need not load the end of the file first. The default time scale,
    # milliseconds, would round the duration of most clips.
    options = {"movflags": "+faststart", "movie_timescale": str(1000 * fps)}
    settings = {_QUALITY_OPTION[encoding.encoder]: str(encoding.quality), **_OPTIONS[encoding.encoder]}
    with open_container(path, "mp4", options) as container:
        writer = FrameWriter(container, open_stream(container, _check_frame(first, first), fps, encoding.encoder, settings))
        writer.write(first)
        for frame in frames:
            writer.write(_check_frame(frame, first))
        writer.flush()


def _check_frame(frame: Pixels, first: Pixels) -> Pixels:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"A frame must be uint8 and height × width × 3, not {frame.dtype} of shape {frame.shape}.")
    if frame.shape != first.shape:
        raise ValueError(f"All frames of a clip must have one size; got {frame.shape} after {first.shape}.")
    if frame.shape[0] % _SIZE_STEP or frame.shape[1] % _SIZE_STEP or not frame.size:
        raise ValueError(f"Width and height of a clip must be multiples of {_SIZE_STEP}, not {frame.shape[1]} × {frame.shape[0]}.")
    return frame


@contextmanager
def open_container(path: Path, format: str, options: Mapping[str, str]) -> Iterator[OutputContainer]:
    """Opens a container file for writing, and always closes it. FFmpeg leaves a file open that it cannot finalize, and a deleted file that
    is open still occupies disk space.

    Args:
        path: The file to write or overwrite.
        format: FFmpeg's name of the container format.
        options: Options of the format.
    """
    import av

    with path.open("wb", buffering=0) as file, ExitStack() as readers:

        def open_for_reading(_url: str, _flags: int, _options: object) -> BinaryIO:
            """`faststart` reads the file back."""
            return readers.enter_context(path.open("rb"))

        with av.open(_Sink(file), "w", format=format, options=dict(options), io_open=open_for_reading) as container:
            yield container


class _Sink:
    """A file whose `write` returns negative error numbers like FFmpeg's own I/O. PyAV prints exceptions, or raises them in a later call."""

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
    """Adds a video stream with a constant frame rate, yuv420p, converted to and tagged as BT.709.

    Args:
        container: Open for writing.
        like: The first frame, height × width × 3.
        fps: Frames per second.
        codec: PyAV's name of the encoder.
        options: Options of the encoder.
    """
    stream = container.add_stream(codec, rate=fps, options=dict(options))
    stream.height, stream.width, _ = like.shape
    stream.pix_fmt = "yuv420p"
    # Without these tags, players guess the colour space from the size, and small clips get wrong colours.
    codec_context = stream.codec_context
    codec_context.colorspace = codec_context.color_primaries = codec_context.color_trc = _BT709
    codec_context.color_range = _LIMITED_RANGE
    return stream


class FrameWriter:
    """Encodes frames into a container, and writes packets as soon as they are ready.

    Args:
        container: Open for writing.
        stream: One of its streams, as `open_stream` adds it.
    """

    def __init__(self, container: OutputContainer, stream: VideoStream) -> None:
        from av.video.reformatter import VideoReformatter

        self._container, self._stream = container, stream
        self._reformatter = VideoReformatter()  # one for all frames: it prepares its tables once

    def write(self, frame: Pixels) -> None:
        """Encodes one frame, height × width × 3."""
        import av

        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        # On this thread: starting others takes longer than the conversion of a frame of these sizes.
        converted = self._reformatter.reformat(rgb, format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED_RANGE, threads=1)
        self._container.mux(self._stream.encode(converted))

    def flush(self) -> None:
        """Writes the frames that the encoder still holds. To be called after the last one."""
        self._container.mux(self._stream.encode(None))
