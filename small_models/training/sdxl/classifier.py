"""A rule-based image classifier: reads background, color, shape and place of a figure from pixels alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from small_models.training.sdxl.dataset import PLACE_OFFSET, PLACES, SHAPES, pale_tone
from small_models.training.shapes import PALETTE, SIZE, Pixels, coverage

_NAMES = tuple(PALETTE)
_FULL_TONES = np.array([PALETTE[name] for name in _NAMES], np.float32)
_PALE_TONES = np.array([pale_tone(name) for name in _NAMES], np.float32)
_BORDER = 3  # pixels along the edge, which figures hardly ever cover
MIN_FIGURE_PIXELS = 12
"""Smaller regions are not considered a figure."""


@dataclass(frozen=True)
class Prediction:
    """The attributes that the classifier reads. The figure's are empty if no figure is found.

    Attributes:
        background: A color's name.
        color: The figure's color.
        shape: The figure's shape.
        place: The figure's place.
    """

    background: str
    color: str = ""
    shape: str = ""
    place: str = ""


def classify(pixels: Pixels, *, region: tuple[slice, slice] | None = None) -> Prediction:
    """Classifies an image with one figure, or one half of an image with two.

    Args:
        pixels: 64 × 64 × 3.
        region: The rows and columns in which to look for the figure; by default the whole image.
    """
    image = pixels.astype(np.float32)
    background = _background(image)
    from_background = _distances(image, np.stack([_FULL_TONES[background], _PALE_TONES[background]])).min(-1)
    inside = np.zeros((SIZE, SIZE), bool)
    inside[region or ...] = True
    color = _figure_color(image, background, from_background, inside)
    if color is None:
        return Prediction(_NAMES[background])
    mask = (_distances(image, _FULL_TONES[color : color + 1])[..., 0] < from_background) & inside
    if mask.sum() < MIN_FIGURE_PIXELS:
        return Prediction(_NAMES[background])
    x, y = _center_of_mass(mask)
    return Prediction(_NAMES[background], _NAMES[color], _shape(mask), _place(x, y))


def _distances(image: NDArray[np.float32], colors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the Euclidean RGB distance of every pixel to every color: height × width × colors."""
    distances: NDArray[np.float32] = np.linalg.norm(image[:, :, None] - colors, axis=-1)
    return distances


def _background(image: NDArray[np.float32]) -> int:
    tones = np.concatenate([_FULL_TONES, _PALE_TONES])
    nearest = _distances(image, tones).argmin(-1) % len(_NAMES)
    border = np.ones((SIZE, SIZE), bool)
    border[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    return int(np.bincount(nearest[border], minlength=len(_NAMES)).argmax())


def _figure_color(
    image: NDArray[np.float32], background: int, from_background: NDArray[np.float32], inside: NDArray[np.bool_]
) -> int | None:
    """Returns the most frequent color among pixels far from the background's tones. Antialiased edge pixels are close to them."""
    far = inside & (from_background > max(60.0, 0.6 * float(np.quantile(from_background[inside], 0.99))))
    if far.sum() < MIN_FIGURE_PIXELS:
        return None
    distances = _distances(image, _FULL_TONES)
    distances[..., background] = np.inf
    return int(np.bincount(distances.argmin(-1)[far], minlength=len(_NAMES)).argmax())


def _center_of_mass(mask: NDArray[np.bool_] | NDArray[np.float32]) -> tuple[float, float]:
    coordinates = np.arange(SIZE) + 0.5
    total = mask.sum()
    return float((mask.sum(0) * coordinates).sum() / total), float((mask.sum(1) * coordinates).sum() / total)


@cache
def _template(shape: str) -> tuple[float, float, float]:
    """Returns the area of a figure of radius 1, and the offset of its center of mass from its center."""
    mask = coverage(shape, 32, 32, 20)
    x, y = _center_of_mass(mask)
    return float(mask.sum()) / 400, (x - 32) / 20, (y - 32) / 20


def _shape(mask: NDArray[np.bool_]) -> str:
    """Returns the shape with the highest IoU with the mask, after matching area and center of mass."""
    x, y = _center_of_mass(mask)
    overlaps = []
    for shape in SHAPES:
        area, right, down = _template(shape)
        radius = float(mask.sum() / area) ** 0.5
        template = coverage(shape, x - right * radius, y - down * radius, radius) > 0.5
        overlaps.append((template & mask).sum() / max((template | mask).sum(), 1))
    return SHAPES[int(np.argmax(overlaps))]


def _place(x: float, y: float) -> str:
    direction = tuple(int(np.sign(offset)) if abs(offset) > PLACE_OFFSET / 2 else 0 for offset in (x - 32, y - 32))
    return next(place for place, expected in PLACES.items() if expected == direction)
