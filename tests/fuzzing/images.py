"""Pictures of every kind that may be sent, and what can be done to their bytes."""

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

from tests.fuzzing.containers import Piece, join, split

_SIZE = (48, 32)


def _picture(mode: str = "RGB") -> Image.Image:
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
    """16 bits for each of three colours, which Pillow reads and does not write."""
    rows = b"".join(b"\0" + bytes(range(0, 240, 5)) * 6 for _ in range(_SIZE[1]))
    pieces = [Piece(b"IHDR", struct.pack(">IIBBBBB", *_SIZE, 16, 2, 0, 0, 0)), Piece(b"IDAT", zlib.compress(rows)), Piece(b"IEND", b"")]
    return join("png", pieces)


def _samples() -> Mapping[str, bytes]:
    rgb, grey, clear = _picture(), _picture("L"), _picture("RGBA")
    said: dict[str, Any] = {"exif": _exif(), "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}
    moving: dict[str, Any] = {"save_all": True, "append_images": [clear.rotate(90), clear.rotate(180)], "duration": 40}
    text = PngInfo()
    text.add_text("Comment", "a heron " * 30, zip=True)
    return {
        "jpeg": _saved(rgb, "JPEG"),
        "jpeg progressive": _saved(rgb, "JPEG", progressive=True, **said),
        "jpeg grey": _saved(grey, "JPEG", restart_marker_blocks=2),
        "jpeg cmyk": _saved(_picture("CMYK"), "JPEG"),
        "png": _saved(rgb, "PNG", pnginfo=text, **said),
        "png palette": _saved(rgb.quantize(16), "PNG", transparency=bytes(range(0, 160, 10))),
        "png grey 16": _saved(Image.fromarray(np.asarray(grey, np.uint16) * 250), "PNG", transparency=250),
        "png rgb 16": _deep_png(),
        "png bit": _saved(_picture("1"), "PNG"),
        "png alpha": _saved(clear.convert("LA"), "PNG"),
        "apng": _saved(clear, "PNG", **moving),
        "webp": _saved(rgb, "WEBP", quality=60, **said),
        "webp lossless": _saved(rgb, "WEBP", lossless=True),
        "webp alpha": _saved(clear, "WEBP", quality=60),
        "webp animated": _saved(clear, "WEBP", **moving),
    }


SAMPLES = _samples()
"""Whole pictures, by what they are."""

_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _flip(draw: DrawFn, content: bytes) -> bytes:
    damaged = bytearray(content)
    for place in draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        damaged[place] ^= draw(st.integers(1, 255))
    return bytes(damaged)


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
    """Wherever a number may stand: a length, a size, a count."""
    width = draw(st.sampled_from([1, 2, 4]))
    place = draw(st.integers(0, max(0, len(content) - width)))
    number: int = draw(st.sampled_from(_EXTREMES)) & (256**width - 1)
    order: Literal["big", "little"] = draw(st.sampled_from(["big", "little"]))
    return content[:place] + number.to_bytes(width, order) + content[place + width :]


def _pieces(change: Callable[[DrawFn, list[Piece]], list[Piece]]) -> Callable[[DrawFn, bytes], bytes]:
    """Does something to the pieces of a file, and writes it again with the lengths and sums that belong to it."""

    def damage(draw: DrawFn, content: bytes) -> bytes:
        format, pieces = split(content)
        return join(format, change(draw, pieces)) if len(pieces) > 1 else _flip(draw, content)

    return damage


def _any(draw: DrawFn, pieces: list[Piece]) -> int:
    return draw(st.integers(0, len(pieces) - 1))


def _duplicate(draw: DrawFn, pieces: list[Piece]) -> list[Piece]:
    copied, place = pieces[_any(draw, pieces)], _any(draw, pieces)
    return [*pieces[:place], *[copied] * draw(st.sampled_from([1, 2, 300])), *pieces[place:]]


def _drop(draw: DrawFn, pieces: list[Piece]) -> list[Piece]:
    place = _any(draw, pieces)
    return pieces[:place] + pieces[place + 1 :]


def _reorder(draw: DrawFn, pieces: list[Piece]) -> list[Piece]:
    return draw(st.permutations(pieces))


def _borrow(draw: DrawFn, pieces: list[Piece]) -> list[Piece]:
    """Takes a piece of another picture, of the same format or not."""
    _, others = split(SAMPLES[draw(st.sampled_from(list(SAMPLES)))])
    place = _any(draw, pieces)
    return [*pieces[:place], others[_any(draw, others)], *pieces[place:]]


def _corrupt(draw: DrawFn, pieces: list[Piece]) -> list[Piece]:
    """Damage that no sum gives away."""
    place = _any(draw, pieces)
    kind, data = pieces[place].kind, pieces[place].data
    if data:
        damage: Callable[[DrawFn, bytes], bytes] = draw(st.sampled_from([_flip, _truncate, _insert, _write_number]))
        data = damage(draw, data)
    return [*pieces[:place], Piece(kind, data), *pieces[place + 1 :]]


def _lie(draw: DrawFn, pieces: list[Piece]) -> list[Piece]:
    """Says an extreme length of one piece."""
    place = _any(draw, pieces)
    lying = Piece(pieces[place].kind, pieces[place].data, draw(st.sampled_from(_EXTREMES)))
    return [*pieces[:place], lying, *pieces[place + 1 :]]


_DAMAGES = (
    _flip, _truncate, _insert, _splice, _write_number,
    _pieces(_duplicate), _pieces(_drop), _pieces(_reorder), _pieces(_borrow), _pieces(_corrupt), _pieces(_corrupt), _pieces(_lie),
)  # fmt: skip


@st.composite
def damaged(draw: DrawFn) -> bytes:
    """One of the samples after one to three damages."""
    content = SAMPLES[draw(st.sampled_from(list(SAMPLES)))]
    for _ in range(draw(st.integers(1, 3))):
        content = draw(st.sampled_from(_DAMAGES))(draw, content or b"\0")
    return content
