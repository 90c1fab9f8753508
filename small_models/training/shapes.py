"""Pictures of one or two plain figures, 64 × 64 pixels."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]
Mask = NDArray[np.float32]

SIZE = 64
"""Pixels on a side."""

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
SHAPES = ("circle", "square", "triangle", "star", "ring")
PLACES: dict[str, tuple[int, int]] = {
    "centre": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
"""Each place's direction from the middle, across and down."""
PAIRED = (("left", "right"), ("top", "bottom"))
"""Where the figures of a picture with two stand."""
RADII: dict[str, float] = {"small": 14.0, "large": 18.0}

SHIFT = 12.0
"""Pixels from the middle to a place, in each direction."""
_PAIR_SHIFT = 16.0
STRIPE = 8
"""Pixels of a stripe: one cell of the latents."""
_FINE = 4  # pictures are drawn this much larger for their edges
_HELD_OUT = 10  # one combination in so many


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        shape: One of `SHAPES`.
        color: One of `PALETTE`.
        place: One of `PLACES`.
        size: One of `RADII`.
    """

    shape: str
    color: str
    place: str
    size: str


@dataclass(frozen=True)
class Scene:
    """What a picture shows.

    Attributes:
        figures: One, or two of different colours at opposite places.
        background: One of `PALETTE`, and no figure's colour.
        striped: Whether the background has stripes, of a paler and a full tone.
    """

    figures: tuple[Figure, ...]
    background: str
    striped: bool

    @property
    def held_out(self) -> bool:
        """Whether this combination of attributes is kept from training. Sizes and stripes do not count: the rest is new as a whole."""
        parts = [self.background, *(f"{figure.shape} {figure.color} {figure.place}" for figure in self.figures)]
        return is_held_out(parts)


def is_held_out(attributes: Iterable[str]) -> bool:
    """Whether a combination of attributes is one of those that are kept from training: a tenth, chosen by a hash."""
    return hashlib.sha256("/".join(attributes).encode()).digest()[0] % _HELD_OUT == 0


def paler(color: str) -> tuple[int, int, int]:
    """The second tone of a striped background: the color, a third of the way to grey."""
    red, green, blue = (round(0.68 * value + 0.32 * 128) for value in PALETTE[color])
    return red, green, blue


def outline(shape: str) -> list[tuple[float, float]]:
    """The corners of a square, a triangle or a star around (0, 0), within a radius of 1."""
    if shape == "square":
        return [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)]
    corners, inner = (3, 1.0) if shape == "triangle" else (10, 0.45)
    turns = [math.tau * index / corners - math.tau / 4 for index in range(corners)]
    reach = [inner if index % 2 and shape == "star" else 1.0 for index in range(corners)]
    drop = 0.2 if shape == "triangle" else 0.0  # its middle is where its box has it, not where its corners have it
    return [(radius * math.cos(turn), radius * math.sin(turn) + drop) for radius, turn in zip(reach, turns, strict=True)]


def coverage(shape: str, x: float, y: float, radius: float) -> Mask:
    """How much of each pixel a figure covers.

    Args:
        shape: One of `SHAPES`.
        x: The middle, in pixels from the left.
        y: The middle, in pixels from the top.
        radius: In pixels.

    Returns:
        64 × 64, in 0 … 1.
    """
    canvas = Image.new("L", (SIZE * _FINE, SIZE * _FINE))
    draw = ImageDraw.Draw(canvas)
    if shape in ("circle", "ring"):
        for reach, ink in ((radius, 255), (0.55 * radius, 0))[: 1 + (shape == "ring")]:
            draw.ellipse([_FINE * value for value in (x - reach, y - reach, x + reach, y + reach)], fill=ink)
    else:
        draw.polygon([(_FINE * (x + radius * right), _FINE * (y + radius * down)) for right, down in outline(shape)], fill=255)
    return np.asarray(canvas.reduce(_FINE), np.float32) / np.float32(255)


def render(scene: Scene, rng: np.random.Generator) -> Pixels:
    """Draws a scene, its figures up to a pixel off their places and sizes.

    Returns:
        64 × 64 × 3.
    """
    picture = np.empty((SIZE, SIZE, 3), np.float32)
    picture[:] = PALETTE[scene.background]
    if scene.striped:
        rows = np.arange(SIZE) // STRIPE % 2 == 1
        picture[rows] = paler(scene.background)
    shift = SHIFT if len(scene.figures) == 1 else _PAIR_SHIFT
    for figure in scene.figures:
        across, down = PLACES[figure.place]
        x, y, radius = np.array([32 + shift * across, 32 + shift * down, RADII[figure.size]]) + rng.uniform(-1, 1, 3)
        cover = coverage(figure.shape, x, y, radius)[..., None]
        picture += cover * (np.array(PALETTE[figure.color], np.float32) - picture)
    return np.round(picture).astype(np.uint8)


def sample_scene(rng: np.random.Generator, *, pairs: float = 0.0, held_out: bool = False) -> Scene:
    """Draws a scene by chance.

    Args:
        rng: The chance.
        pairs: The share of scenes with two figures, 0 … 1.
        held_out: Whether it shall be one that is kept from training, or one that is not.
    """
    while True:
        places = PAIRED[rng.integers(len(PAIRED))] if rng.random() < pairs else (str(rng.choice(list(PLACES))),)
        background, *colors = (str(color) for color in rng.permutation(list(PALETTE))[: 1 + len(places)])
        figures = tuple(
            Figure(str(rng.choice(SHAPES)), color, place, "small" if len(places) > 1 else str(rng.choice(list(RADII))))
            for color, place in zip(colors, places, strict=True)
        )
        scene = Scene(figures, background, bool(rng.random() < 0.25))
        if scene.held_out == held_out:
            return scene
