"""A rule-based clip classifier: reads background, color, shape and motion of a figure from pixels alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from small_models.training.sdxl.classifier import MIN_FIGURE_PIXELS, Prediction, classify
from small_models.training.shapes import PALETTE, SIZE, Pixels
from small_models.training.wan.dataset import MOTIONS, SPEED


@dataclass(frozen=True)
class ClipPrediction:
    """The attributes that the classifier reads. The figure's are empty if no figure is found.

    Attributes:
        background: A color's name.
        color: The figure's color.
        shape: The figure's shape.
        motion: One of `MOTIONS`; empty also if the figure is missing in a frame.
    """

    background: str
    color: str = ""
    shape: str = ""
    motion: str = ""


def classify_clip(frames: Pixels) -> ClipPrediction:
    """Classifies a clip: colors and shape by majority over the frames, the motion by a linear fit of the positions.

    Args:
        frames: Count × 64 × 64 × 3.
    """
    predictions = [classify(frame) for frame in frames]
    background = _majority(predictions, "background")
    color = _majority([prediction for prediction in predictions if prediction.color], "color")
    if not color or color == background:
        return ClipPrediction(background)
    shape = _majority([prediction for prediction in predictions if prediction.color == color], "shape")
    return ClipPrediction(background, color, shape, _motion(frames, background, color))


def figure_center(frame: Pixels, background: str, color: str) -> tuple[float, float] | None:
    """Returns the center of mass of a figure of a known color, in pixels from the left and from the top, or None if it is absent.

    Args:
        frame: 64 × 64 × 3.
        background: The background's color name.
        color: The figure's color name.
    """
    image = frame.astype(np.float32)
    to_figure, to_background = (np.linalg.norm(image - np.array(PALETTE[name], np.float32), axis=-1) for name in (color, background))
    mask: NDArray[np.bool_] = to_figure < to_background
    if mask.sum() < MIN_FIGURE_PIXELS:
        return None
    down, across = np.nonzero(mask)
    return float(across.mean()) + 0.5, float(down.mean()) + 0.5


def _majority(predictions: list[Prediction], attribute: str) -> str:
    counts = Counter(getattr(prediction, attribute) for prediction in predictions)
    return counts.most_common(1)[0][0] if counts else ""


def _motion(frames: Pixels, background: str, color: str) -> str:
    positions = [figure_center(frame, background, color) for frame in frames]
    if any(position is None for position in positions):
        return ""
    # The least-squares slope over all frames is robust against a single bad frame.
    times = np.arange(len(frames)) - (len(frames) - 1) / 2
    velocity = (times[:, None] * (np.array(positions) - SIZE / 2)).sum(0) / max(float((times**2).sum()), 1.0)
    if np.abs(velocity).max() < SPEED / 4:
        return "still"
    return max(MOTIONS, key=lambda motion: float(np.dot(velocity, MOTIONS[motion])))
