"""Edges, as ControlNets for them were trained on."""

from __future__ import annotations

import numpy as np
from PIL import Image

# The thresholds of the examples that published ControlNets for edges come with.
_LOW, _HIGH = 100, 200


def draw_edges(picture: Image.Image) -> Image.Image:
    """Draws the edges of a picture by Canny's method: white lines on black.

    Args:
        picture: RGB.

    Returns:
        RGB, of the same size.
    """
    import cv2

    return Image.fromarray(cv2.Canny(np.asarray(picture.convert("L")), _LOW, _HIGH)).convert("RGB")
