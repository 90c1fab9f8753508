"""Decodes untrusted images within limits; encodes pixels as PNG, WebP or JPEG."""

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
    """The MIME type and the file extension of a format."""

    mime: str
    extension: str


IMAGE_TYPES: Mapping[str, ImageType] = MappingProxyType(
    {"png": ImageType("image/png", "png"), "webp": ImageType("image/webp", "webp"), "jpeg": ImageType("image/jpeg", "jpg")}
)
"""The supported formats by their names in the contract."""

THUMBNAIL_MIME = IMAGE_TYPES["webp"].mime
"""The MIME type of thumbnails."""

MAX_PIXELS = 7680 * 4320
"""An 8K frame, 100 MB decoded."""

MIN_SIDE, MAX_SIDE, MAX_RATIO = 16, 8192, 8
"""Pixels of the shorter and the longer side, and the maximum aspect ratio."""

_PREVIEW_SIDE = 128

# PNG with run-length matching only: 3.7 times faster than the default at the same size, because the filters leave few other matches.
# JPEG without chroma subsampling, so that red edges stay sharp.
_ENCODINGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "png": {"compress_level": 1, "compress_type": zlib.Z_RLE},
        "webp": {"quality": 90},
        "jpeg": {"quality": 95, "subsampling": "4:4:4"},
    }
)

# The transposition that undoes each EXIF orientation.
_TRANSPOSITIONS: Mapping[object, Image.Transpose] = MappingProxyType(
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

# The exceptions that Pillow raises for damaged files. Any other is a bug and must not be hidden.
_DECODER_ERRORS = (OSError, ValueError, SyntaxError, EOFError, LookupError, ArithmeticError, TypeError, AssertionError, struct.error)


class UnreadableImage(ValueError):
    """The content is not a usable image. The text is the reason, as the end of a sentence: `it is 9000 × 20 pixels …`."""


def open_image(content: bytes) -> Image.Image:
    """Decodes an untrusted image.

    Uses the first frame, applies the EXIF orientation, flattens alpha on white, and scales 16 bits per channel to 8. Colours are
    interpreted as sRGB; an embedded profile is ignored.

    Args:
        content: A PNG, JPEG or WebP file. No other decoder is tried.

    Returns:
        An RGB image; sides from `MIN_SIDE` to `MAX_SIDE`, at most `MAX_PIXELS` in total, aspect ratio at most `MAX_RATIO`.

    Raises:
        UnreadableImage: The reason.
    """
    try:
        with Image.open(BytesIO(content), formats=tuple(IMAGE_TYPES)) as image:
            _check_size(*image.size)
            image.load()
            return _to_rgb(_upright(image))
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage("it is not a PNG, JPEG or WebP image") from None
    except Image.DecompressionBombError:
        raise UnreadableImage(f"it has more than {MAX_PIXELS} pixels") from None
    except _DECODER_ERRORS:
        raise UnreadableImage("the file is damaged") from None


def _check_size(width: int, height: int) -> None:
    short, long = sorted((width, height))
    if short < MIN_SIDE or long > MAX_SIDE or width * height > MAX_PIXELS or long > MAX_RATIO * short:
        raise UnreadableImage(
            f"it is {width} × {height} pixels; allowed are sides from {MIN_SIDE} to {MAX_SIDE}, "
            f"at most {MAX_PIXELS} pixels in total, and an aspect ratio of at most {MAX_RATIO}"
        )


def _upright(image: Image.Image) -> Image.Image:
    # Not `ImageOps.exif_transpose`, which also rewrites the EXIF data and fails on images with invalid tags.
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _DECODER_ERRORS:
        return image
    transpose = _TRANSPOSITIONS.get(orientation)
    return image if transpose is None else image.transpose(transpose)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _scale_to_8_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    opaque = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    # Pillow clips instead of scaling: every value above 255 of 65 535 would turn white.
    grey = np.asarray(image).astype(np.uint32)
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey = np.where(grey == transparent, 65535, grey)
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8))


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """Fits an image to `width` × `height` by a centre crop and one LANCZOS resampling, without padding."""
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def encode_image(pixels: Pixels, format: str, *, text: Mapping[str, str] | None = None) -> bytes:
    """Encodes an image deterministically.

    Args:
        pixels: Height × width × 3.
        format: `png`; `webp` (lossy, quality 90); `jpeg` (quality 95, 4:4:4).
        text: Keywords and values of PNG text chunks.

    Raises:
        ValueError: Invalid pixels, an unknown format, or text for a format other than PNG.
    """
    if format not in _ENCODINGS:
        raise ValueError(f"Unknown image format {format!r}. Available: {', '.join(_ENCODINGS)}.")
    options = dict(_ENCODINGS[format])
    if text:
        if format != "png":
            raise ValueError(f"Only PNG supports text chunks, not {format}.")
        options["pnginfo"] = _chunks(text)
    return _encode(_to_image(pixels), format, options)


def _chunks(text: Mapping[str, str]) -> PngInfo:
    chunks = PngInfo()
    for keyword, value in text.items():
        chunks.add_text(keyword, value)
    return chunks


def thumbnail(pixels: Pixels, longest: int = 256) -> bytes:
    """Encodes a WebP thumbnail.

    Args:
        pixels: Height × width × 3.
        longest: Maximum pixels per side. A smaller image keeps its size.

    Raises:
        ValueError: Invalid pixels.
    """
    image = _to_image(pixels)
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return _encode(image, "webp", {"quality": 80})


def preview_url(pixels: Pixels) -> str:
    """Encodes a WebP of at most 128 pixels per side as a `data:` URL, small enough for a progress update."""
    return f"data:{IMAGE_TYPES['webp'].mime};base64,{b64encode(thumbnail(pixels, _PREVIEW_SIDE)).decode()}"


def _to_image(pixels: Pixels) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"Pixels must be uint8 and height × width × 3, not {pixels.dtype} of shape {pixels.shape}.")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _encode(image: Image.Image, format: str, options: Mapping[str, Any]) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()
