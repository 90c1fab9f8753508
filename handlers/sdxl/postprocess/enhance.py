"""Sharpening and contrast."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance

from handlers.sdxl.nested import Enhance
from shared.media.images import Pixels


def enhance(pixels: Pixels, settings: Enhance) -> Pixels:
    """Sharpens an image, then raises its contrast. With 0 for both it is unchanged.

    Both are Pillow's. Sharpening adds a fraction of the difference between the image and a smoothed one, a 3 × 3 mean in which the centre
    counts five times. Contrast increases the distance of each value from the image's mean grey by a fraction.

    Args:
        pixels: Height × width × 3.
        settings: Both fractions, 0 … 1.
    """
    image = Image.fromarray(pixels)
    if settings.sharpen:
        image = ImageEnhance.Sharpness(image).enhance(1 + settings.sharpen)
    if settings.contrast:
        image = ImageEnhance.Contrast(image).enhance(1 + settings.contrast)
    return np.asarray(image)
