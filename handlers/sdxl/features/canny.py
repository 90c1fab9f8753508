"""Canny edge detection for control images."""

from __future__ import annotations

import numpy as np
from PIL import Image

# The thresholds in the examples of the published Canny ControlNets.
_LOW, _HIGH = 100, 200


def canny_edges(image: Image.Image) -> Image.Image:
    """Detects edges: white lines on black.

    Args:
        image: RGB.

    Returns:
        RGB, of the same size.
    """
    import cv2

    return Image.fromarray(cv2.Canny(np.asarray(image.convert("L")), _LOW, _HIGH)).convert("RGB")
