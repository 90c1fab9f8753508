"""Image files for reference faults: valid, unusual, mislabelled, and decompression bombs."""

from __future__ import annotations

import random
import struct
import zlib
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """Returns an image file."""
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def image_bytes(format: str = "PNG") -> bytes:
    """Returns a valid image file of 64 × 64 pixels."""
    return encode(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)), format)


def non_images() -> list[bytes]:
    """Returns bodies that are not PNG, JPEG or WebP."""
    bodies = [b"<html>", b"{}", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\0\0\0\x18ftypmp42", b"", random.Random(0).randbytes(4096)]
    bodies += [encode(Image.new("RGB", (64, 64)), format) for format in ("GIF", "TIFF", "BMP", "PPM", "ICO")]
    return [*bodies, b"%!PS-Adobe-3.0 EPSF-3.0\n", b"SIMPLE  =  T"]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, rows: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))  # grey
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


@cache
def decompression_bombs() -> tuple[bytes, ...]:
    """Returns small files that decode to large images."""
    zeros = zlib.compress(bytes(13_000 + 1) * 13_000)  # 164 kB
    return _png(50_000, 50_000, b""), _png(13_000, 13_000, zeros)


def image_with_long_text() -> bytes:
    """Returns a small PNG whose compressed comment has 5 MB."""
    text = PngInfo()
    text.add_text("comment", "x" * 5_000_000, zip=True)
    return encode(Image.new("RGB", (64, 64)), pnginfo=text)


def animation() -> bytes:
    """Returns a WebP of two frames."""
    frames = [Image.new("RGB", (64, 64), (shade, 0, 0)) for shade in (10, 200)]
    return encode(frames[0], "WEBP", save_all=True, append_images=frames[1:])


def unusual_images() -> list[bytes]:
    """Returns valid images: 16 bits, CMYK, rotated by EXIF, 1 bit, a palette, alpha, grey, with a colour profile."""
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    images = [encode(Image.fromarray(np.full((64, 64), 40_000, np.uint16))), encode(Image.new("CMYK", (64, 64)), "JPEG")]
    images += [encode(Image.new("RGB", (64, 64)), "JPEG", exif=exif)]
    images += [encode(Image.new(mode, (64, 64))) for mode in ("1", "P", "LA", "RGBA", "L")]
    return [*images, encode(Image.new("RGB", (64, 64)), icc_profile=profile)]
