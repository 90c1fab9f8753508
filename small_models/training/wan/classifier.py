"""Says from pixels alone what a clip shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from small_models.training.sdxl.classifier import LEAST, Prediction, classify
from small_models.training.shapes import PALETTE, SIZE, Pixels
from small_models.training.wan.dataset import MOTIONS, SPEED


@dataclass(frozen=True)
class ClipPrediction:
    """What a clip shows.

    Attributes:
        background: A color's name.
        color: The figure's; empty where there is no figure.
        shape: The figure's; empty where there is no figure.
        motion: The figure's, one of `MOTIONS`; empty where there is no figure, or not in every frame.
    """

    background: str
    color: str = ""
    shape: str = ""
    motion: str = ""


def classify_clip(frames: Pixels) -> ClipPrediction:
    """Reads colors and shape as most frames have them, and the motion from the straight line that fits its places best.

    Args:
        frames: Count × 64 × 64 × 3.
    """
    readings = [classify(frame) for frame in frames]
    background = _most(readings, "background")
    color = _most([reading for reading in readings if reading.color], "color")
    if not color or color == background:
        return ClipPrediction(background)
    shape = _most([reading for reading in readings if reading.color == color], "shape")
    return ClipPrediction(background, color, shape, _motion(frames, background, color))


def centre(frame: Pixels, background: str, color: str) -> tuple[float, float] | None:
    """Where a figure of a known color is: its centre of mass, in pixels from the left and from the top. None where it is not.

    Args:
        frame: 64 × 64 × 3.
        background: A color's name.
        color: The figure's.
    """
    picture = frame.astype(np.float32)
    to_figure, to_ground = (np.linalg.norm(picture - np.array(PALETTE[name], np.float32), axis=-1) for name in (color, background))
    mask: NDArray[np.bool_] = to_figure < to_ground
    if mask.sum() < LEAST:
        return None
    down, across = np.nonzero(mask)
    return float(across.mean()) + 0.5, float(down.mean()) + 0.5


def _most(readings: list[Prediction], attribute: str) -> str:
    counted = Counter(getattr(reading, attribute) for reading in readings)
    return counted.most_common(1)[0][0] if counted else ""


def _motion(frames: Pixels, background: str, color: str) -> str:
    places = [centre(frame, background, color) for frame in frames]
    if any(place is None for place in places):
        return ""
    # A slope through all frames: one bad frame does not turn it.
    times = np.arange(len(frames)) - (len(frames) - 1) / 2
    speeds = (times[:, None] * (np.array(places) - SIZE / 2)).sum(0) / max(float((times**2).sum()), 1.0)
    if np.abs(speeds).max() < SPEED / 4:
        return "still"
    return max(MOTIONS, key=lambda motion: float(np.dot(speeds, MOTIONS[motion])))
