"""Antialiased geometric figures on a 64 × 64 canvas, and the hold-out split. The datasets of both small models are rendered from these."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]
Mask = NDArray[np.float32]

SIZE = 64
"""Width and height in pixels."""

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (225, 35, 35),
    "green": (35, 155, 65),
    "blue": (35, 75, 220),
    "yellow": (250, 220, 45),
    "purple": (150, 50, 185),
    "cyan": (60, 205, 220),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
}

_SUPERSAMPLING = 4  # figures are rendered at this scale and reduced, for antialiased edges
_HELD_OUT = 10  # one combination in this many


def is_held_out(attributes: Iterable[str]) -> bool:
    """Whether a combination of attributes is excluded from training: a tenth of all combinations, selected by a hash."""
    return hashlib.sha256("/".join(attributes).encode()).digest()[0] % _HELD_OUT == 0


def outline(shape: str) -> list[tuple[float, float]]:
    """Returns the vertices of a square, triangle or star around (0, 0), within a radius of 1."""
    if shape == "square":
        return [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)]
    corners, inner = (3, 1.0) if shape == "triangle" else (10, 0.45)
    turns = [math.tau * index / corners - math.tau / 4 for index in range(corners)]
    reach = [inner if index % 2 and shape == "star" else 1.0 for index in range(corners)]
    drop = 0.2 if shape == "triangle" else 0.0  # centers the triangle's bounding box rather than its vertices
    return [(radius * math.cos(turn), radius * math.sin(turn) + drop) for radius, turn in zip(reach, turns, strict=True)]


def coverage(shape: str, x: float, y: float, radius: float) -> Mask:
    """Returns the fraction of each pixel that a figure covers.

    Args:
        shape: `circle`, `ring`, or a shape of `outline`.
        x: The center, in pixels from the left.
        y: The center, in pixels from the top.
        radius: In pixels.

    Returns:
        64 × 64, in 0 … 1.
    """
    canvas = Image.new("L", (SIZE * _SUPERSAMPLING, SIZE * _SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    if shape in ("circle", "ring"):
        for reach, ink in ((radius, 255), (0.55 * radius, 0))[: 1 + (shape == "ring")]:
            draw.ellipse([_SUPERSAMPLING * value for value in (x - reach, y - reach, x + reach, y + reach)], fill=ink)
    else:
        vertices = [(_SUPERSAMPLING * (x + radius * right), _SUPERSAMPLING * (y + radius * down)) for right, down in outline(shape)]
        draw.polygon(vertices, fill=255)
    return np.asarray(canvas.reduce(_SUPERSAMPLING), np.float32) / np.float32(255)
