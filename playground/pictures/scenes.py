"""The images that the pictures' requests refer to: plain figures, a mask, an edge map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from small_models.training.addons.edges import edge_map
from small_models.training.sdxl.dataset import Figure, Scene, render
from small_models.training.shapes import PALETTE, SIZE


def _scene(shape: str, color: str, place: str, background: str, *, striped: bool = False) -> Image.Image:
    scene = Scene((Figure(shape, color, place, "large"),), background, striped)
    return Image.fromarray(render(scene, np.random.default_rng(0)))


def _edges(shape: str, place: str) -> Image.Image:
    return Image.fromarray(edge_map(np.asarray(_scene(shape, "black", place, "white"))))


def _mask() -> Image.Image:
    """White, to be repainted, in the right half."""
    mask = Image.new("RGB", (SIZE, SIZE), "black")
    ImageDraw.Draw(mask).rectangle((SIZE // 2, 0, SIZE, SIZE), fill="white")
    return mask


def _disc(x: int) -> Image.Image:
    """A yellow disc on black, as the small WAN draws figures: centred `x` pixels from the left."""
    scene = Image.new("RGB", (SIZE, SIZE), PALETTE["black"])
    ImageDraw.Draw(scene).ellipse((x - 12, 20, x + 12, 44), fill=PALETTE["yellow"])
    return scene


IMAGES: Mapping[str, Callable[[], Image.Image]] = {
    "ring": partial(_scene, "ring", "yellow", "left", "blue"),
    "star": partial(_scene, "star", "red", "top right", "white"),
    "triangle": partial(_scene, "triangle", "green", "bottom left", "white"),
    "edges": partial(_edges, "star", "bottom right"),
    "mask": _mask,
    "disc-left": partial(_disc, 16),
    "disc-right": partial(_disc, 48),
}
"""By the name in `https://example.com/{name}.png`, as requests refer to them."""


def url(name: str) -> str:
    """Returns the reference to an image in a request. Nothing is fetched."""
    return f"https://example.com/{name}.png"


def image(reference: str) -> Image.Image:
    """Returns the image of a reference."""
    return IMAGES[reference.rpartition("/")[2].removesuffix(".png")]()
