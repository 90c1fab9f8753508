"""Splits image files into their segments and joins them: PNG chunks, JPEG segments, RIFF chunks of WebP."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Literal

Format = Literal["png", "jpeg", "webp"]

_PNG = b"\x89PNG\r\n\x1a\n"
_SCAN = b"\xff\xda"


@dataclass(frozen=True)
class Segment:
    """One segment of an image file.

    Attributes:
        kind: Chunk type such as `IHDR` or `VP8X`, or the two bytes of a JPEG marker.
        data: The content, without length and checksum.
        length: A wrong length to write instead of the real one.
    """

    kind: bytes
    data: bytes
    length: int | None = None

    @property
    def written_length(self) -> int:
        """The length field."""
        return len(self.data) if self.length is None else self.length


def split(content: bytes) -> tuple[Format, list[Segment]]:
    """Splits a file into format and segments. Everything after the start of a JPEG scan belongs to the scan."""
    if content.startswith(b"RIFF"):
        return "webp", _split(content, 12, "<4sI", pad=1)
    if content.startswith(b"\xff\xd8"):
        return "jpeg", _split_jpeg(content)
    segments = [Segment(kind, data) for kind, data in _png_chunks(content)]
    return "png", segments


def _split(content: bytes, start: int, header: str, *, pad: int) -> list[Segment]:
    segments: list[Segment] = []
    while start + 8 <= len(content):
        kind, length = struct.unpack_from(header, content, start)
        segments.append(Segment(kind, content[start + 8 : start + 8 + length]))
        start += 8 + length + (length % 2) * pad
    return segments


def _png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    chunks: list[tuple[bytes, bytes]] = []
    start = len(_PNG)
    while start + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, start)
        chunks.append((content[start + 4 : start + 8], content[start + 8 : start + 8 + length]))
        start += 12 + length
    return chunks


def _split_jpeg(content: bytes) -> list[Segment]:
    segments: list[Segment] = []
    start = 2
    while start + 4 <= len(content):
        marker, length = content[start : start + 2], struct.unpack_from(">H", content, start + 2)[0]
        end = len(content) if marker == _SCAN else start + 2 + max(length, 2)
        segments.append(Segment(marker, content[start + 4 : end], length if marker == _SCAN else None))
        start = end
    return segments


def join(format: Format, segments: list[Segment]) -> bytes:
    """Joins segments to a file, with correct lengths and checksums unless a segment overrides its length."""
    match format:
        case "png":
            return _PNG + b"".join(
                struct.pack(">I", segment.written_length & 0xFFFFFFFF)
                + segment.kind[:4].ljust(4, b"\0")
                + segment.data
                + _checksum(segment)
                for segment in segments
            )
        case "jpeg":
            return b"\xff\xd8" + b"".join(
                segment.kind[:2] + struct.pack(">H", _jpeg_length(segment)) + segment.data for segment in segments
            )
    body = b"WEBP" + b"".join(
        segment.kind[:4].ljust(4, b" ")
        + struct.pack("<I", segment.written_length & 0xFFFFFFFF)
        + segment.data
        + b"\0" * (len(segment.data) % 2)
        for segment in segments
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _checksum(segment: Segment) -> bytes:
    return struct.pack(">I", zlib.crc32(segment.kind[:4].ljust(4, b"\0") + segment.data))


def _jpeg_length(segment: Segment) -> int:
    """The length field of JPEG includes its own two bytes."""
    return (len(segment.data) + 2 if segment.length is None else segment.length) & 0xFFFF
