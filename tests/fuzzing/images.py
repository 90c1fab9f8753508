"""Sample images of every accepted kind, and a strategy that corrupts their bytes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from tests.fuzzing.containers import Segment, join, split

_SIZE = (48, 32)


def _image(mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[0 : _SIZE[1], 0 : _SIZE[0]]
    return Image.fromarray(np.stack([x * 5, y * 7, x * y % 256, 255 - x], axis=-1).astype(np.uint8), "RGBA").convert(mode)


def _saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x8769] = 6, "a heron", {0x9286: b"ASCII\0\0\0over the bay"}
    return exif


def _deep_png() -> bytes:
    """Returns a PNG with 16 bits per channel, which Pillow reads but does not write."""
    rows = b"".join(b"\0" + bytes(range(0, 240, 5)) * 6 for _ in range(_SIZE[1]))
    segments = [
        Segment(b"IHDR", struct.pack(">IIBBBBB", *_SIZE, 16, 2, 0, 0, 0)),
        Segment(b"IDAT", zlib.compress(rows)),
        Segment(b"IEND", b""),
    ]
    return join("png", segments)


def _samples() -> Mapping[str, bytes]:
    rgb, grey, clear = _image(), _image("L"), _image("RGBA")
    metadata: dict[str, Any] = {"exif": _exif(), "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}
    animation: dict[str, Any] = {"save_all": True, "append_images": [clear.rotate(90), clear.rotate(180)], "duration": 40}
    text = PngInfo()
    text.add_text("Comment", "a heron " * 30, zip=True)
    return {
        "jpeg": _saved(rgb, "JPEG"),
        "jpeg progressive": _saved(rgb, "JPEG", progressive=True, **metadata),
        "jpeg grey": _saved(grey, "JPEG", restart_marker_blocks=2),
        "jpeg cmyk": _saved(_image("CMYK"), "JPEG"),
        "png": _saved(rgb, "PNG", pnginfo=text, **metadata),
        "png palette": _saved(rgb.quantize(16), "PNG", transparency=bytes(range(0, 160, 10))),
        "png grey 16": _saved(Image.fromarray(np.asarray(grey, np.uint16) * 250), "PNG", transparency=250),
        "png rgb 16": _deep_png(),
        "png bit": _saved(_image("1"), "PNG"),
        "png alpha": _saved(clear.convert("LA"), "PNG"),
        "apng": _saved(clear, "PNG", **animation),
        "webp": _saved(rgb, "WEBP", quality=60, **metadata),
        "webp lossless": _saved(rgb, "WEBP", lossless=True),
        "webp alpha": _saved(clear, "WEBP", quality=60),
        "webp animated": _saved(clear, "WEBP", **animation),
    }


SAMPLES = _samples()
"""Valid images by kind."""

_EXTREME_VALUES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _flip(draw: DrawFn, content: bytes) -> bytes:
    corrupted = bytearray(content)
    for place in draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        corrupted[place] ^= draw(st.integers(1, 255))
    return bytes(corrupted)


def _truncate(draw: DrawFn, content: bytes) -> bytes:
    return content[: draw(st.integers(0, len(content) - 1))]


def _insert(draw: DrawFn, content: bytes) -> bytes:
    place = draw(st.integers(0, len(content)))
    more: bytes = draw(st.binary(min_size=1, max_size=40) | st.just(bytes(70_000)))
    return content[:place] + more + content[place:]


def _splice(draw: DrawFn, content: bytes) -> bytes:
    other = SAMPLES[draw(st.sampled_from(list(SAMPLES)))]
    return content[: draw(st.integers(0, len(content)))] + other[draw(st.integers(0, len(other))) :]


def _write_number(draw: DrawFn, content: bytes) -> bytes:
    """Overwrites a possible length, size or count."""
    width = draw(st.sampled_from([1, 2, 4]))
    place = draw(st.integers(0, max(0, len(content) - width)))
    number: int = draw(st.sampled_from(_EXTREME_VALUES)) & (256**width - 1)
    order: Literal["big", "little"] = draw(st.sampled_from(["big", "little"]))
    return content[:place] + number.to_bytes(width, order) + content[place + width :]


def _segments(change: Callable[[DrawFn, list[Segment]], list[Segment]]) -> Callable[[DrawFn, bytes], bytes]:
    """Changes the segments of a file and rewrites it with correct lengths and checksums."""

    def corrupt(draw: DrawFn, content: bytes) -> bytes:
        format, segments = split(content)
        return join(format, change(draw, segments)) if len(segments) > 1 else _flip(draw, content)

    return corrupt


def _any(draw: DrawFn, segments: list[Segment]) -> int:
    return draw(st.integers(0, len(segments) - 1))


def _duplicate(draw: DrawFn, segments: list[Segment]) -> list[Segment]:
    copied, place = segments[_any(draw, segments)], _any(draw, segments)
    return [*segments[:place], *[copied] * draw(st.sampled_from([1, 2, 300])), *segments[place:]]


def _drop(draw: DrawFn, segments: list[Segment]) -> list[Segment]:
    place = _any(draw, segments)
    return segments[:place] + segments[place + 1 :]


def _reorder(draw: DrawFn, segments: list[Segment]) -> list[Segment]:
    return draw(st.permutations(segments))


def _borrow(draw: DrawFn, segments: list[Segment]) -> list[Segment]:
    """Inserts a segment of another image, possibly of another format."""
    _, others = split(SAMPLES[draw(st.sampled_from(list(SAMPLES)))])
    place = _any(draw, segments)
    return [*segments[:place], others[_any(draw, others)], *segments[place:]]


def _corrupt(draw: DrawFn, segments: list[Segment]) -> list[Segment]:
    """Corrupts the data of a segment and updates its checksum."""
    place = _any(draw, segments)
    kind, data = segments[place].kind, segments[place].data
    if data:
        change: Callable[[DrawFn, bytes], bytes] = draw(st.sampled_from([_flip, _truncate, _insert, _write_number]))
        data = change(draw, data)
    return [*segments[:place], Segment(kind, data), *segments[place + 1 :]]


def _lie(draw: DrawFn, segments: list[Segment]) -> list[Segment]:
    """Writes an extreme length for one segment."""
    place = _any(draw, segments)
    lying = Segment(segments[place].kind, segments[place].data, draw(st.sampled_from(_EXTREME_VALUES)))
    return [*segments[:place], lying, *segments[place + 1 :]]


_CORRUPTIONS = (
    _flip, _truncate, _insert, _splice, _write_number, _segments(_duplicate), _segments(_drop), _segments(_reorder),
    _segments(_borrow), _segments(_corrupt), _segments(_corrupt), _segments(_lie),
)  # fmt: skip


@st.composite
def corrupted_images(draw: DrawFn) -> bytes:
    """Returns a sample image after one to three corruptions."""
    content = SAMPLES[draw(st.sampled_from(list(SAMPLES)))]
    for _ in range(draw(st.integers(1, 3))):
        content = draw(st.sampled_from(_CORRUPTIONS))(draw, content or b"\0")
    return content
