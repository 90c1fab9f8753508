"""How striped the background of a picture is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from small_models.training.shapes import PALETTE, SIZE, STRIPE, Pixels, Scene, paler


def striped(scene: Scene) -> Scene:
    """The same scene in front of stripes."""
    return replace(scene, striped=True)


def plain(scene: Scene) -> Scene:
    """The same scene in front of one tone."""
    return replace(scene, striped=False)


def figure_mask(pixels: Pixels, scene: Scene) -> NDArray[np.bool_]:
    """Where a picture of one figure is nearer to the figure's color than to both tones of the background, 64 × 64."""
    picture = pixels.astype(np.float32)
    colors = (PALETTE[scene.figures[0].color], PALETTE[scene.background], paler(scene.background))
    figure, full, pale = (np.linalg.norm(picture - np.array(color, np.float32), axis=-1) for color in colors)
    mask: NDArray[np.bool_] = figure < np.minimum(full, pale)
    return mask


def stripe_contrast(pixels: Pixels, scene: Scene) -> float:
    """How far the background's rows differ where stripes have their two tones: 0 in a plain picture, 1 in a striped one as rendered."""
    full, pale = (np.array(color, np.float32) for color in (PALETTE[scene.background], paler(scene.background)))
    step = pale - full
    paleness = (pixels.astype(np.float32) - full) @ step / (step @ step)
    rows = np.broadcast_to((np.arange(SIZE) // STRIPE % 2 == 1)[:, None], (SIZE, SIZE))
    ground = ~figure_mask(pixels, scene)
    if not (ground & rows).any() or not (ground & ~rows).any():
        return 0.0
    return float(paleness[ground & rows].mean() - paleness[ground & ~rows].mean())
