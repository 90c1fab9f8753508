"""Upper bounds of the sizes of encoded images, known before there are any."""

from __future__ import annotations

from typing import Final

# Bytes per pixel. PNG stores what it cannot compress, three bytes and a filter byte per row. For lossy formats at the qualities of
# `encode_image`: random noise, their worst case, has 2.90 and 0.99 (tests/shared/media/test_size_bounds.py).
_BYTES_PER_PIXEL: Final = {"png": 3.05, "jpeg": 3.1, "webp": 1.1}
_HEADERS: Final = 4096

MAX_THUMBNAIL_BYTES: Final = 80_000
"""256 × 256 pixels as WebP."""


def max_image_bytes(width: int, height: int, format: str) -> int:
    """Returns an upper bound of the size of an image and its thumbnail.

    Args:
        width: Pixels.
        height: Pixels.
        format: `png`, `webp` or `jpeg`.
    """
    return int(width * height * _BYTES_PER_PIXEL[format]) + _HEADERS + MAX_THUMBNAIL_BYTES
