"""Measures how striped an image's background is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from small_models.training.sdxl.dataset import STRIPE, Scene, pale_tone
from small_models.training.shapes import PALETTE, SIZE, Pixels


def with_stripes(scene: Scene) -> Scene:
    """Returns the scene with a striped background."""
    return replace(scene, striped=True)


def with_plain_background(scene: Scene) -> Scene:
    """Returns the scene with a plain background."""
    return replace(scene, striped=False)


def figure_mask(pixels: Pixels, scene: Scene) -> NDArray[np.bool_]:
    """Returns where an image is closer to the figure's color than to both tones of the background, 64 × 64."""
    image = pixels.astype(np.float32)
    colors = (PALETTE[scene.figures[0].color], PALETTE[scene.background], pale_tone(scene.background))
    figure, full, pale = (np.linalg.norm(image - np.array(color, np.float32), axis=-1) for color in colors)
    mask: NDArray[np.bool_] = figure < np.minimum(full, pale)
    return mask


def stripe_contrast(pixels: Pixels, scene: Scene) -> float:
    """Returns the contrast between the rows of pale and full stripes: 0 for a plain background, 1 for stripes as rendered."""
    full, pale = (np.array(color, np.float32) for color in (PALETTE[scene.background], pale_tone(scene.background)))
    direction = pale - full
    paleness = (pixels.astype(np.float32) - full) @ direction / (direction @ direction)
    pale_rows = np.broadcast_to((np.arange(SIZE) // STRIPE % 2 == 1)[:, None], (SIZE, SIZE))
    background = ~figure_mask(pixels, scene)
    if not (background & pale_rows).any() or not (background & ~pale_rows).any():
        return 0.0
    return float(paleness[background & pale_rows].mean() - paleness[background & ~pale_rows].mean())
