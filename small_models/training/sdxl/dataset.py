"""The small SDXL's synthetic dataset: images of one or two plain figures, 64 × 64 pixels, and the scenes that describe them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from small_models.training.shapes import PALETTE, SIZE, Pixels, coverage, is_held_out

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
"""Each place's direction from the center, across and down."""
PAIRED = (("left", "right"), ("top", "bottom"))
"""The places of the figures in a scene with two."""
RADII: dict[str, float] = {"small": 14.0, "large": 18.0}

PLACE_OFFSET = 12.0
"""Pixels from the center to a place, along each axis."""
_PAIR_OFFSET = 16.0
STRIPE = 8
"""Height of a stripe in pixels: one cell of the latents."""


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
    """The attributes of one image.

    Attributes:
        figures: One figure, or two of different colors at opposite places.
        background: One of `PALETTE`, different from the figures' colors.
        striped: Whether the background has stripes of the full and a paler tone.
    """

    figures: tuple[Figure, ...]
    background: str
    striped: bool

    @property
    def held_out(self) -> bool:
        """Whether this combination is excluded from training. Sizes and stripes do not count: a held-out combination is new as a whole."""
        return is_held_out([self.background, *(f"{figure.shape} {figure.color} {figure.place}" for figure in self.figures)])


def pale_tone(color: str) -> tuple[int, int, int]:
    """Returns the second tone of a striped background: the color blended with a third of grey."""
    red, green, blue = (round(0.68 * value + 0.32 * 128) for value in PALETTE[color])
    return red, green, blue


def sample_scene(rng: np.random.Generator, *, pairs: float = 0.0, held_out: bool = False) -> Scene:
    """Samples a random scene.

    Args:
        rng: The random generator.
        pairs: The fraction of scenes with two figures, 0 … 1.
        held_out: Whether to sample from the held-out combinations or from those for training.
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


def render(scene: Scene, rng: np.random.Generator) -> Pixels:
    """Renders a scene; positions and radii vary randomly by up to one pixel.

    Returns:
        64 × 64 × 3.
    """
    image = np.empty((SIZE, SIZE, 3), np.float32)
    image[:] = PALETTE[scene.background]
    if scene.striped:
        rows = np.arange(SIZE) // STRIPE % 2 == 1
        image[rows] = pale_tone(scene.background)
    offset = PLACE_OFFSET if len(scene.figures) == 1 else _PAIR_OFFSET
    for figure in scene.figures:
        across, down = PLACES[figure.place]
        x, y, radius = np.array([32 + offset * across, 32 + offset * down, RADII[figure.size]]) + rng.uniform(-1, 1, 3)
        cover = coverage(figure.shape, x, y, radius)[..., None]
        image += cover * (np.array(PALETTE[figure.color], np.float32) - image)
    return np.round(image).astype(np.uint8)


def generate_dataset(count: int, seed: int, *, pairs: float, held_out: bool = False) -> tuple[list[Scene], Pixels]:
    """Samples and renders scenes.

    Returns:
        The scenes, and their images, count × 64 × 64 × 3.
    """
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng, pairs=pairs, held_out=held_out) for _ in range(count)]
    return scenes, np.stack([render(scene, rng) for scene in scenes])
