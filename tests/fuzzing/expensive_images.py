"""Image files that cost more to decode than they are long, or would without limits."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import cache
from io import BytesIO

from PIL import Image

from tests.chaos.fault_injection.image_files import decompression_bombs, encode, image_with_long_text
from tests.fuzzing.containers import Segment, join, split

_GREY = Image.new("RGB", (64, 64), "grey")


@cache
def jpeg_with_scans(count: int = 40_000) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    content = encode(Image.effect_noise((512, 512), 60).convert("RGB"), "JPEG", progressive=True, quality=95)
    last = content.rfind(b"\xff\xda")
    header = struct.unpack_from(">H", content, last + 2)[0] + 2
    return content[:-2] + content[last : last + header + 60] * count + b"\xff\xd9"


def jpeg_with_segments(count: int = 300_000) -> bytes:
    """A JPEG with many Exif segments."""
    format, segments = split(encode(_GREY, "JPEG"))
    return join(format, [*[Segment(b"\xff\xe1", b"Exif\0\0MM\0*\0\0\0\x08")] * count, *segments])


def png_with_chunks(kind: bytes, data: bytes, count: int) -> bytes:
    """A PNG with a chunk many times, before its data."""
    format, segments = split(encode(_GREY))
    return join(format, [segments[0], *[Segment(kind, data)] * count, *segments[1:]])


def png_with_split_data(count: int = 300_000) -> bytes:
    """A PNG whose data is preceded by many empty chunks."""
    format, segments = split(encode(_GREY))
    return join(format, [segments[0], *[Segment(b"IDAT", b"")] * count, *segments[1:]])


def exif_with_tags(count: int = 60_000) -> bytes:
    """A PNG with an Exif chunk of many tags whose values are outside of it."""
    tags = b"".join(struct.pack(">HHII", 0x9000 + number % 4096, 7, 10**6, 10**6) for number in range(count))
    return png_with_chunks(b"eXIf", b"MM\0*\0\0\0\x08" + struct.pack(">H", min(count, 65_535)) + tags, 1)


def jpeg_of_size(width: int, height: int) -> bytes:
    """A small JPEG whose header tells another size."""
    content = bytearray(encode(_GREY, "JPEG"))
    start = content.index(b"\xff\xc0")
    struct.pack_into(">HH", content, start + 5, height, width)
    return bytes(content)


@cache
def large_webp() -> bytes:
    """A small WebP of 7680 × 4320 pixels."""
    return encode(Image.new("RGB", (7680, 4320), "grey"), "WEBP", quality=1, method=0)


def animated(format: str, count: int) -> bytes:
    """An animation of many frames."""
    frames = [Image.new("RGB", (32, 32), (number % 256, number // 256, 0)) for number in range(count)]
    buffer = BytesIO()
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:], **({"method": 0} if format == "WEBP" else {}))
    return buffer.getvalue()


EXPENSIVE_IMAGES: dict[str, Callable[[], bytes]] = {
    "Progressive JPEG with 40,000 scans": jpeg_with_scans,
    "JPEG with 300,000 Exif segments": jpeg_with_segments,
    "JPEG with 300,000 comments": lambda: join("jpeg", [*[Segment(b"\xff\xfe", b"c")] * 300_000, *split(encode(_GREY, "JPEG"))[1]]),
    "JPEG whose header tells 65,500 × 65,500 pixels": lambda: jpeg_of_size(65_500, 65_500),
    "PNG with 60,000 bad Exif tags": exif_with_tags,
    "PNG with 60,000 texts": lambda: png_with_chunks(b"tEXt", b"key\0value", 60_000),
    "PNG with 60,000 bad gamma chunks": lambda: png_with_chunks(b"gAMA", b"", 60_000),
    "PNG with 300,000 empty data chunks": png_with_split_data,
    "PNG with a profile that expands to 500 MB": lambda: png_with_chunks(b"iCCP", b"p\0\0" + zlib.compress(bytes(500_000_000), 1), 1),
    "PNG with a compressed text of 5 MB": image_with_long_text,
    "PNG of 50,000 × 50,000 pixels": lambda: decompression_bombs()[0],
    "PNG of 13,000 × 13,000 pixels in 164 kB": lambda: decompression_bombs()[1],
    "APNG of 2,000 frames": lambda: animated("PNG", 2_000),
    "WebP of 1,000 frames": lambda: animated("WEBP", 1_000),
    "WebP of 7680 × 4320 pixels": large_webp,
    "WebP that ends in its header": lambda: large_webp()[:30],
}


@cache
def expensive_image(name: str) -> bytes:
    """Returns one of `EXPENSIVE_IMAGES`, which is made once."""
    return EXPENSIVE_IMAGES[name]()
