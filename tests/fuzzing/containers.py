"""Picture files as the pieces that they are made of: PNG's chunks, JPEG's segments, RIFF's chunks in a WebP."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Literal

Format = Literal["png", "jpeg", "webp"]

_PNG = b"\x89PNG\r\n\x1a\n"
_SCAN = b"\xff\xda"


@dataclass(frozen=True)
class Piece:
    """One piece.

    Attributes:
        kind: `IHDR`; `VP8X`; the two bytes of a JPEG's marker.
        data: What it holds, without length and sum.
        length: What is said instead of its length.
    """

    kind: bytes
    data: bytes
    length: int | None = None

    @property
    def said(self) -> int:
        """The length that is written down."""
        return len(self.data) if self.length is None else self.length


def split(content: bytes) -> tuple[Format, list[Piece]]:
    """The pieces of a file, as far as they can be told apart. Of a scan of JPEG, all that follows belongs to it."""
    if content.startswith(b"RIFF"):
        return "webp", _split(content, 12, "<4sI", pad=1)
    if content.startswith(b"\xff\xd8"):
        return "jpeg", _split_jpeg(content)
    pieces = [Piece(kind, data) for kind, data in _png_chunks(content)]
    return "png", pieces


def _split(content: bytes, start: int, header: str, *, pad: int) -> list[Piece]:
    pieces: list[Piece] = []
    while start + 8 <= len(content):
        kind, length = struct.unpack_from(header, content, start)
        pieces.append(Piece(kind, content[start + 8 : start + 8 + length]))
        start += 8 + length + (length % 2) * pad
    return pieces


def _png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    chunks: list[tuple[bytes, bytes]] = []
    start = len(_PNG)
    while start + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, start)
        chunks.append((content[start + 4 : start + 8], content[start + 8 : start + 8 + length]))
        start += 12 + length
    return chunks


def _split_jpeg(content: bytes) -> list[Piece]:
    pieces: list[Piece] = []
    start = 2
    while start + 4 <= len(content):
        marker, length = content[start : start + 2], struct.unpack_from(">H", content, start + 2)[0]
        end = len(content) if marker == _SCAN else start + 2 + max(length, 2)
        pieces.append(Piece(marker, content[start + 4 : end], length if marker == _SCAN else None))
        start = end
    return pieces


def join(format: Format, pieces: list[Piece]) -> bytes:
    """A file of pieces, with the lengths and sums that belong to them unless one says otherwise."""
    match format:
        case "png":
            return _PNG + b"".join(
                struct.pack(">I", piece.said & 0xFFFFFFFF) + piece.kind[:4].ljust(4, b"\0") + piece.data + _sum(piece) for piece in pieces
            )
        case "jpeg":
            return b"\xff\xd8" + b"".join(piece.kind[:2] + struct.pack(">H", _jpeg_length(piece)) + piece.data for piece in pieces)
    body = b"WEBP" + b"".join(
        piece.kind[:4].ljust(4, b" ") + struct.pack("<I", piece.said & 0xFFFFFFFF) + piece.data + b"\0" * (len(piece.data) % 2)
        for piece in pieces
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _sum(piece: Piece) -> bytes:
    return struct.pack(">I", zlib.crc32(piece.kind[:4].ljust(4, b"\0") + piece.data))


def _jpeg_length(piece: Piece) -> int:
    """It counts its own two bytes."""
    return (len(piece.data) + 2 if piece.length is None else piece.length) & 0xFFFF
