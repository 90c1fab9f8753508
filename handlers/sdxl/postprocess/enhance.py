"""Plain changes to finished pictures."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance

from handlers.sdxl.nested import Enhance
from shared.media.images import Pixels


def enhance(pixels: Pixels, asked: Enhance) -> Pixels:
    """Sharpens a picture, then raises its contrast. With 0 for both it stays as it is.

    Sharpening adds that much of the difference between the picture and a smoothed one, a mean over 3 × 3 pixels in which its own counts
    five times. Contrast moves every value that much farther from the picture's mean grey. Both are Pillow's.

    Args:
        pixels: Height × width × 3.
        asked: How much of each, 0 … 1.
    """
    picture = Image.fromarray(pixels)
    if asked.sharpen:
        picture = ImageEnhance.Sharpness(picture).enhance(1 + asked.sharpen)
    if asked.contrast:
        picture = ImageEnhance.Contrast(picture).enhance(1 + asked.contrast)
    return np.asarray(picture)
