"""Pictures: untrusted bytes are opened with limits, finished pixels become PNG, WebP or JPEG."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from collections.abc import Mapping
from io import BytesIO
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

Pixels = NDArray[np.uint8]
"""Height × width × 3, RGB, 0 … 255."""


class ImageType(NamedTuple):
    """How a format is called outside."""

    mime: str
    extension: str


IMAGE_TYPES: Mapping[str, ImageType] = MappingProxyType(
    {"png": ImageType("image/png", "png"), "webp": ImageType("image/webp", "webp"), "jpeg": ImageType("image/jpeg", "jpg")}
)
"""The formats that are read and written, by their names in the contract. The one place for media types and extensions."""

MAX_PIXELS = 7680 * 4320
"""An 8K frame. Opened it takes 100 MB."""

MIN_SIDE, MAX_SIDE, MAX_RATIO = 16, 8192, 8
"""Pixels of the shorter and the longer side, and how much longer the longer one may be."""

_PREVIEW_SIDE = 128

# PNG by run lengths, without a search for matches: 3.7 times faster than the default at the same size, because the filters leave little
# to find. JPEG keeps the full resolution of colours, so that red edges stay sharp.
_ENCODINGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "png": {"compress_level": 1, "compress_type": zlib.Z_RLE},
        "webp": {"quality": 90},
        "jpeg": {"quality": 95, "subsampling": "4:4:4"},
    }
)

# What brings a picture upright, by its EXIF orientation.
_TURNS: Mapping[object, Image.Transpose] = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)

# What Pillow raises for damaged files. Anything else would be a fault of this program, and is not to be hidden.
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, LookupError, ArithmeticError, TypeError, AssertionError, struct.error)


class UnreadableImage(ValueError):
    """Bytes that are not a picture that may be used. Its text is the reason, as the end of a sentence: `it is 9000 × 20 pixels …`."""


def open_image(content: bytes) -> Image.Image:
    """Opens a picture that nobody vouches for.

    The first frame counts. EXIF orientation is applied, alpha is flattened on white, 16 bits per channel are scaled to 8. Colours are
    taken as sRGB: an embedded profile is not applied.

    Args:
        content: A PNG, JPEG or WebP file. No other decoder is tried, whatever the bytes look like.

    Returns:
        RGB; sides from `MIN_SIDE` to `MAX_SIDE`, at most `MAX_PIXELS` in all, one side at most `MAX_RATIO` times the other.

    Raises:
        UnreadableImage: With the reason.
    """
    try:
        with Image.open(BytesIO(content), formats=tuple(IMAGE_TYPES)) as image:
            _check_size(*image.size)
            image.load()
            return _to_rgb(_upright(image))
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage("it is not a PNG, JPEG or WebP picture") from None
    except Image.DecompressionBombError:
        raise UnreadableImage(f"it has more than {MAX_PIXELS} pixels") from None
    except _DAMAGED:
        raise UnreadableImage("the file is damaged") from None


def _check_size(width: int, height: int) -> None:
    short, long = sorted((width, height))
    if short < MIN_SIDE or long > MAX_SIDE or width * height > MAX_PIXELS or long > MAX_RATIO * short:
        raise UnreadableImage(
            f"it is {width} × {height} pixels; allowed are sides from {MIN_SIDE} to {MAX_SIDE}, "
            f"at most {MAX_PIXELS} pixels in all, and one side at most {MAX_RATIO} times the other"
        )


def _upright(image: Image.Image) -> Image.Image:
    # Not `ImageOps.exif_transpose`: it also writes the EXIF data anew, and fails for pictures whose other tags are odd.
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _DAMAGED:
        return image
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _scale_to_8_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    opaque = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    # Pillow would clip instead of scale: everything above 255 of 65 535 would turn white.
    grey = np.asarray(image).astype(np.uint32)
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey = np.where(grey == transparent, 65535, grey)
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8))


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """Fits a picture into `width` × `height` by a centre crop and one LANCZOS resampling. Nothing is ever padded."""
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def encode_image(pixels: Pixels, format: str, *, text: Mapping[str, str] | None = None) -> bytes:
    """Encodes a picture. The same pixels always give the same bytes.

    Args:
        pixels: Height × width × 3.
        format: `png`; `webp` (lossy, quality 90); `jpeg` (quality 95, 4:4:4).
        text: Keywords and their texts, for the text chunks of a PNG.

    Raises:
        ValueError: Pixels of another shape or type, an unknown format, or text for a format without text chunks.
    """
    if format not in _ENCODINGS:
        raise ValueError(f"There is no image format {format!r}; there are {', '.join(_ENCODINGS)}.")
    options = dict(_ENCODINGS[format])
    if text:
        if format != "png":
            raise ValueError(f"Only PNG carries text, not {format}.")
        options["pnginfo"] = _chunks(text)
    return _encode(_picture(pixels), format, options)


def _chunks(text: Mapping[str, str]) -> PngInfo:
    chunks = PngInfo()
    for keyword, value in text.items():
        chunks.add_text(keyword, value)
    return chunks


def thumbnail(pixels: Pixels, longest: int = 256) -> bytes:
    """Makes a WebP preview.

    Args:
        pixels: Height × width × 3.
        longest: The most pixels that a side may have. A smaller picture keeps its size.

    Raises:
        ValueError: Pixels of another shape or type.
    """
    picture = _picture(pixels)
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return _encode(picture, "webp", {"quality": 80})


def preview_url(pixels: Pixels) -> str:
    """Makes a WebP of at most 128 pixels on a side as a `data:` URL, small enough to ride in a progress update."""
    return f"data:{IMAGE_TYPES['webp'].mime};base64,{b64encode(thumbnail(pixels, _PREVIEW_SIDE)).decode()}"


def _picture(pixels: Pixels) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"Pixels must be uint8 and height × width × 3, not {pixels.dtype} of shape {pixels.shape}.")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _encode(picture: Image.Image, format: str, options: Mapping[str, Any]) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format=format, **options)
    return buffer.getvalue()
