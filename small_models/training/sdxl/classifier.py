"""Says from pixels alone what a picture shows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from small_models.training.shapes import PALETTE, PLACES, SHAPES, SHIFT, SIZE, Pixels, coverage, paler

_NAMES = tuple(PALETTE)
_FULL = np.array([PALETTE[name] for name in _NAMES], np.float32)
_PALE = np.array([paler(name) for name in _NAMES], np.float32)
_BORDER = 3  # pixels along the edge that no figure covers for the most part
LEAST = 12
"""Pixels: less is no figure."""


@dataclass(frozen=True)
class Prediction:
    """What a picture shows.

    Attributes:
        background: A color's name.
        color: The figure's; empty where there is no figure.
        shape: The figure's; empty where there is no figure.
        place: The figure's; empty where there is no figure.
    """

    background: str
    color: str = ""
    shape: str = ""
    place: str = ""


def classify(pixels: Pixels, *, region: tuple[slice, slice] | None = None) -> Prediction:
    """Reads a picture with one figure, or one with two figures half by half.

    Args:
        pixels: 64 × 64 × 3.
        region: The rows and columns in which the figure is looked for; by default the whole picture.
    """
    picture = pixels.astype(np.float32)
    ground = _background(picture)
    away = _distances(picture, np.stack([_FULL[ground], _PALE[ground]])).min(-1)
    inside = np.zeros((SIZE, SIZE), bool)
    inside[region or ...] = True
    color = _figure_color(picture, ground, away, inside)
    if color is None:
        return Prediction(_NAMES[ground])
    mask = (_distances(picture, _FULL[color : color + 1])[..., 0] < away) & inside
    if mask.sum() < LEAST:
        return Prediction(_NAMES[ground])
    x, y = _middle(mask)
    return Prediction(_NAMES[ground], _NAMES[color], _shape(mask), _place(x, y))


def _distances(picture: NDArray[np.float32], colors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Height × width × colors."""
    apart: NDArray[np.float32] = np.linalg.norm(picture[:, :, None] - colors, axis=-1)
    return apart


def _background(picture: NDArray[np.float32]) -> int:
    tones = np.concatenate([_FULL, _PALE])
    names = _distances(picture, tones).argmin(-1) % len(_NAMES)
    edge = np.ones((SIZE, SIZE), bool)
    edge[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    return int(np.bincount(names[edge], minlength=len(_NAMES)).argmax())


def _figure_color(picture: NDArray[np.float32], ground: int, away: NDArray[np.float32], inside: NDArray[np.bool_]) -> int | None:
    """The color that most pixels have which are far from the background's tones. Where edges blend, they are near to it."""
    far = inside & (away > max(60.0, 0.6 * float(np.quantile(away[inside], 0.99))))
    if far.sum() < LEAST:
        return None
    apart = _distances(picture, _FULL)
    apart[..., ground] = np.inf
    return int(np.bincount(apart.argmin(-1)[far], minlength=len(_NAMES)).argmax())


def _middle(mask: NDArray[np.bool_] | NDArray[np.float32]) -> tuple[float, float]:
    across = np.arange(SIZE) + 0.5
    total = mask.sum()
    return float((mask.sum(0) * across).sum() / total), float((mask.sum(1) * across).sum() / total)


@cache
def _template(shape: str) -> tuple[float, float, float]:
    """The area of a figure of radius 1, and how far its centre of mass is from its middle."""
    mask = coverage(shape, 32, 32, 20)
    x, y = _middle(mask)
    return float(mask.sum()) / 400, (x - 32) / 20, (y - 32) / 20


def _shape(mask: NDArray[np.bool_]) -> str:
    """The shape that covers the mask best when it has the mask's area and centre of mass."""
    x, y = _middle(mask)
    fits = []
    for shape in SHAPES:
        area, right, down = _template(shape)
        radius = float(mask.sum() / area) ** 0.5
        drawn = coverage(shape, x - right * radius, y - down * radius, radius) > 0.5
        fits.append((drawn & mask).sum() / max((drawn | mask).sum(), 1))
    return SHAPES[int(np.argmax(fits))]


def _place(x: float, y: float) -> str:
    steps = tuple(int(np.sign(offset)) if abs(offset) > SHIFT / 2 else 0 for offset in (x - 32, y - 32))
    return next(place for place, direction in PLACES.items() if direction == steps)
