"""Encodes PNG at the speed of memory: one filter for every row, and the deflate of ISA-L, which releases the GIL."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngInfo

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

_BIT_DEPTH, _RGB, _FILTER_UP = 8, 2, 2
# The only level above 0 whose output is the same on processors with and without AVX2 and AVX-512; the others compress no better.
_LEVEL: Final = 1


def png_chunk(kind: bytes, data: bytes | bytearray | memoryview) -> bytes:
    """Returns a chunk: the length of its data, its kind of four letters, the data, and the CRC."""
    return struct.pack(">I", len(data)) + kind + bytes(data) + struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(kind)))


def encode_png(pixels: NDArray[np.uint8], text: Mapping[str, str]) -> bytes:
    """Encodes an image without loss and deterministically.

    Twenty to forty times faster than Pillow's default, at up to 13 % more bytes (`benchmarks/encoding.py`).

    Args:
        pixels: Height × width × 3, RGB.
        text: Keywords and values of text chunks: `tEXt` for Latin-1, `iTXt` for anything else.
    """
    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, _BIT_DEPTH, _RGB, 0, 0, 0)
    data = isal_zlib.compress(_filtered(pixels), _LEVEL)
    chunks = [(b"IHDR", header), *_text_chunks(text), (b"IDAT", data), (b"IEND", b"")]
    return SIGNATURE + b"".join(png_chunk(kind, content) for kind, content in chunks)


def _filtered(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The rows as their differences from the row above, each behind the filter's number. A photograph's rows resemble each other, and numpy
    has no faster filter of those that PNG knows."""
    height, width, channels = pixels.shape
    rows = pixels.reshape(height, width * channels)
    filtered = np.empty((height, 1 + width * channels), np.uint8)
    filtered[:, 0] = _FILTER_UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    return filtered


def _text_chunks(text: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    chunks = PngInfo()
    for keyword, value in text.items():
        chunks.add_text(keyword, value)
    return [(chunk[0], chunk[1]) for chunk in chunks.chunks]
