"""Edge maps of pictures, as a Canny detector draws them: white lines on black."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from small_models.training.shapes import Pixels

THRESHOLD = 60.0
"""How many levels of 255 the neighbours on both sides must differ by, in one channel. Stripes differ by less."""


def edge_map(pixels: Pixels, *, threshold: float = THRESHOLD, width: int = 1) -> NDArray[np.uint8]:
    """Draws a line where a picture changes most.

    Args:
        pixels: Height × width × 3.
        threshold: The least difference, in levels of 255.
        width: Of the lines, in pixels: 1 or 2.

    Returns:
        Height × width × 3, 0 or 255.
    """
    picture = np.pad(pixels.astype(np.float32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = np.abs(picture[1:-1, 2:] - picture[1:-1, :-2]).max(-1)
    down = np.abs(picture[2:, 1:-1] - picture[:-2, 1:-1]).max(-1)
    lines = (across >= down) & _is_peak(across, 1) & (across > threshold)
    lines |= (down > across) & _is_peak(down, 0) & (down > threshold)
    if width > 1:
        lines[:, 1:] |= lines[:, :-1]
        lines[1:] |= lines[:-1]
    return np.repeat(np.uint8(255) * lines[..., None], 3, axis=-1)


def _is_peak(steepness: NDArray[np.float32], axis: int) -> NDArray[np.bool_]:
    """Where a value is above the one before it and not below the one after it."""
    sides = [(1, 1) if each == axis else (0, 0) for each in range(2)]
    padded = np.pad(steepness, sides)
    height, width = steepness.shape
    before = padded[:height, :width]
    after = padded[-height:, -width:]
    peak: NDArray[np.bool_] = (steepness > before) & (steepness >= after)
    return peak
