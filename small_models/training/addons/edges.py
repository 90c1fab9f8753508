"""Edge maps as a Canny detector produces them: white lines on black."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from small_models.training.shapes import Pixels

THRESHOLD = 60.0
"""Minimum difference of the neighbours on both sides in one channel, in levels of 255. Stripes differ by less."""


def edge_map(pixels: Pixels, *, threshold: float = THRESHOLD, width: int = 1) -> NDArray[np.uint8]:
    """Draws a line where the gradient has a local maximum (non-maximum suppression).

    Args:
        pixels: Height × width × 3.
        threshold: The minimum gradient, in levels of 255.
        width: The width of the lines in pixels, 1 or 2.

    Returns:
        Height × width × 3, 0 or 255.
    """
    image = np.pad(pixels.astype(np.float32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = np.abs(image[1:-1, 2:] - image[1:-1, :-2]).max(-1)
    down = np.abs(image[2:, 1:-1] - image[:-2, 1:-1]).max(-1)
    lines = (across >= down) & _is_peak(across, 1) & (across > threshold)
    lines |= (down > across) & _is_peak(down, 0) & (down > threshold)
    if width > 1:
        lines[:, 1:] |= lines[:, :-1]
        lines[1:] |= lines[:-1]
    return np.repeat(np.uint8(255) * lines[..., None], 3, axis=-1)


def _is_peak(gradient: NDArray[np.float32], axis: int) -> NDArray[np.bool_]:
    """Returns where a value is greater than its predecessor and not less than its successor along an axis."""
    sides = [(1, 1) if each == axis else (0, 0) for each in range(2)]
    padded = np.pad(gradient, sides)
    height, width = gradient.shape
    before = padded[:height, :width]
    after = padded[-height:, -width:]
    peak: NDArray[np.bool_] = (gradient > before) & (gradient >= after)
    return peak
