"""No image is larger than the bound that is known before it exists, and ordinary ones are not far below it."""

from __future__ import annotations

import numpy as np
import pytest

from shared.media.encoding import encode_image, thumbnail
from shared.media.images import Pixels
from shared.media.size_bounds import MAX_THUMBNAIL_BYTES, max_image_bytes

WIDTH, HEIGHT = 384, 256


def noise(levels: int) -> Pixels:
    """The worst case of every encoder: noise of all levels for PNG, of the two extremes for lossy formats."""
    drawn = np.random.default_rng(7).integers(0, levels, (HEIGHT, WIDTH, 3))
    return (drawn * (255 // (levels - 1))).astype(np.uint8)


@pytest.mark.parametrize("levels", [2, 3, 16, 256])
@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_noise_is_not_larger_than_the_bound(format: str, levels: int) -> None:
    pixels = noise(levels)
    assert len(encode_image(pixels, format)) + MAX_THUMBNAIL_BYTES <= max_image_bytes(WIDTH, HEIGHT, format)
    assert len(thumbnail(pixels)) <= MAX_THUMBNAIL_BYTES


@pytest.mark.parametrize(("format", "levels"), [("png", 256), ("jpeg", 2), ("webp", 2)])
def test_the_bound_is_less_than_a_sixth_above_the_worst_case(format: str, levels: int) -> None:
    bound = max_image_bytes(WIDTH, HEIGHT, format) - MAX_THUMBNAIL_BYTES
    assert bound < len(encode_image(noise(levels), format)) * 7 / 6
