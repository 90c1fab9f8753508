"""PNG, JPEG, GIF and WebP files with the oddities of files that people send."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

MANY = 6 * 2**20
"""Bytes of large metadata."""


def picture() -> Image.Image:
    """A 96 × 64 image with gradients in both directions."""
    y, x = np.mgrid[0:64, 0:96]
    return Image.fromarray(np.stack([x * 255 // 96, y * 255 // 64, (x + y) * 255 // 160], axis=-1).astype(np.uint8))


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """Returns an image as a file."""
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes, *, wrong_crc: bool = False) -> bytes:
    """Returns a chunk of a PNG file."""
    crc = zlib.crc32(kind + data) ^ wrong_crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png_with(*chunks: bytes) -> bytes:
    """Returns a PNG of `picture()` with more chunks after its header."""
    content = saved(picture())
    return content[:33] + b"".join(chunks) + content[33:]


def sixteen_bit_png() -> bytes:
    """Returns `picture()` with 16 bits per channel, which Pillow cannot write."""
    rows = np.asarray(picture()).astype(">u2") * 257
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 96, 64, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def jpeg(**options: Any) -> bytes:
    """Returns `picture()` as a JPEG."""
    return saved(picture(), "JPEG", **({"quality": 90} | options))


def jpeg_with_segment(marker: int, data: bytes, times: int = 1) -> bytes:
    """Returns a JPEG of `picture()` with more segments after its first."""
    content = jpeg()
    segment = struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
    return content[:2] + segment * times + content[2:]


def webp_with(kind: bytes, data: bytes) -> bytes:
    """Returns a lossless WebP of `picture()` with one more chunk."""
    content = saved(picture(), "WEBP", lossless=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    whole = content + kind + struct.pack("<I", len(data)) + data
    return whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:]


PNG, JPEG, WEBP = saved(picture()), jpeg(), saved(picture(), "WEBP", lossless=True)
_INCOMPRESSIBLE = np.random.default_rng(0).bytes(MANY)

AS_THE_PNG: Mapping[str, Callable[[], bytes]] = {
    "a compressed text that expands to 200 MB": lambda: png_with(chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(2 * 10**8)))),
    "a compressed text of 6 MB": lambda: png_with(chunk(b"zTXt", b"workflow\0\0" + _INCOMPRESSIBLE)),
    "an international text of 6 MB": lambda: png_with(chunk(b"iTXt", b"prompt\0\0\0\0\0" + b"x" * MANY)),
    "a compressed international text": lambda: png_with(chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(bytes(10**8)))),
    "a plain text of 6 MB": lambda: png_with(chunk(b"tEXt", b"parameters\0" + b"x" * MANY)),
    "a profile of 6 MB": lambda: png_with(chunk(b"iCCP", b"profile\0\0" + _INCOMPRESSIBLE)),
    "EXIF of 6 MB": lambda: png_with(chunk(b"eXIf", b"MM\0*\0\0\0\x08" + bytes(MANY))),
    "an unknown private chunk of 6 MB": lambda: png_with(chunk(b"caBX", _INCOMPRESSIBLE)),
    "several wrong checksums": lambda: png_with(
        chunk(b"gAMA", struct.pack(">I", 45455), wrong_crc=True),
        chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1), wrong_crc=True),
        chunk(b"tIME", bytes(7), wrong_crc=True),
        chunk(b"sRGB", b"\0", wrong_crc=True),
    ),
    "an empty text": lambda: png_with(chunk(b"tEXt", b"")),
    "trailing bytes": lambda: PNG + b"trailing" * 10_000,
    "no end chunk": lambda: PNG[:-12],
    "an animation": lambda: saved(picture(), save_all=True, append_images=[Image.new("RGB", (96, 64))], duration=50),
    "16 bits per channel": sixteen_bit_png,
    "opaque alpha": lambda: saved(picture().convert("RGBA")),
    "interlacing markers of a WebP's EXIF": lambda: webp_with(b"EXIF", b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "a WebP with trailing bytes": lambda: WEBP + b"trailing" * 10_000,
    "a WebP with XMP of 6 MB": lambda: webp_with(b"XMP ", b"x" * MANY),
    "an animated WebP": lambda: saved(picture(), "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", (96, 64))]),
}
"""Files whose pixels are those of `PNG`."""

AS_THE_JPEG: Mapping[str, Callable[[], bytes]] = {
    "no end marker": lambda: JPEG[:-2],
    "half an end marker": lambda: JPEG[:-1],
    "padding in place of the end marker": lambda: JPEG[:-2] + bytes(64),
    "trailing bytes": lambda: JPEG + b"trailing" * 10_000,
    "a profile of 6 MB in segments": lambda: jpeg_with_segment(0xE2, b"ICC_PROFILE\0" + bytes(60_000), times=100),
    "broken EXIF": lambda: jpeg_with_segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "a comment of 64 KB": lambda: jpeg_with_segment(0xFE, b"x" * 65_000),
    "a second image": lambda: JPEG + JPEG,
}
"""Files whose pixels are those of `JPEG`."""

INCOMPLETE: Mapping[str, Callable[[], bytes]] = {
    "a JPEG cut in its scan": lambda: JPEG[: len(JPEG) * 3 // 4],
    "a JPEG cut in its scan, with an end marker": lambda: JPEG[: len(JPEG) // 2],
    "a progressive JPEG without its last scans": lambda: jpeg(progressive=True)[: len(jpeg(progressive=True)) // 2],
    "a PNG cut in its data": lambda: PNG[: len(PNG) // 2],
    "a PNG with a wrong checksum of its data": lambda: PNG[:-16] + bytes([PNG[-16] ^ 1]) + PNG[-15:],
    "a PNG with a wrong checksum of its header": lambda: PNG[:29] + bytes([PNG[29] ^ 1]) + PNG[30:],
    "a WebP cut in its data": lambda: WEBP[: len(WEBP) // 2],
}
"""Files that lack pixels."""
