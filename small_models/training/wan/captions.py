"""Captions of the small WAN's clips, with many phrasings of the same content."""

from __future__ import annotations

import numpy as np

from small_models.training.sdxl.captions import pick
from small_models.training.shapes import PALETTE
from small_models.training.wan.dataset import MOTIONS, SHAPES, Scene

_MOVING = ("{} moves {}", "{} moving {}", "{} that moves {}", "{} is moving {}", "{} goes {}", "{} slides {}", "{} sliding {}")
_STILL = ("{} stays still", "{} that does not move", "{} standing still", "{} does not move")
_DIRECTIONS = {
    "left": ("left", "to the left", "from right to left"),
    "right": ("right", "to the right", "from left to right"),
    "up": ("up", "upwards", "to the top"),
    "down": ("down", "downwards", "to the bottom"),
}
_OPENINGS = ("", "", "a video of ", "a clip of ")
_GENERIC = ("a video", "a clip", "a picture")
_BACKGROUNDS = (" on a {} background", " on {}", " over a {} background", " in front of a {} background", ", {} background")


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describes a scene. An omitted motion means none, an omitted background white.

    Args:
        scene: The scene.
        rng: Selects the phrasing.
    """
    article = pick(("a ", "a ", "a ", "the ", ""), rng)
    text = _motion(f"{article}{scene.color} {scene.shape}", scene.motion, rng)
    text = pick(_OPENINGS, rng) + text + _background(scene, rng)
    if rng.random() < 0.2:
        text = text[0].upper() + text[1:]
    return text + ("." if rng.random() < 0.2 else "")


def caption_without_colors(scene: Scene, rng: np.random.Generator) -> str:
    """Describes a scene without its colors, which a reference image then has to provide.

    Args:
        scene: The scene.
        rng: Selects the phrasing.
    """
    if rng.random() < 0.3:
        return pick(_GENERIC, rng)
    return pick(_OPENINGS, rng) + _motion(f"a {scene.shape}", scene.motion, rng)


def tokenizer_corpus() -> tuple[str, ...]:
    """Returns captions that contain every word of the vocabulary, to build a tokenizer from."""
    rng = np.random.default_rng(0)
    scenes = [
        Scene(shape, color, motion, background)
        for shape in SHAPES
        for color in PALETTE
        for motion in MOTIONS
        for background in PALETTE
        if background != color
    ]
    return tuple(caption(scene, rng) for scene in scenes for _ in range(3))


def _motion(figure: str, motion: str, rng: np.random.Generator) -> str:
    if motion == "still":
        return figure if rng.random() < 0.4 else pick(_STILL, rng).format(figure)
    return pick(_MOVING, rng).format(figure, pick(_DIRECTIONS[motion], rng))


def _background(scene: Scene, rng: np.random.Generator) -> str:
    if scene.background == "white" and rng.random() < 0.3:
        return ""
    return pick(_BACKGROUNDS, rng).format(scene.background)
