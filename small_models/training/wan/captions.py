"""Sentences about clips: several ways to say the same."""

from __future__ import annotations

import numpy as np

from small_models.training.sdxl.captions import pick
from small_models.training.shapes import PALETTE
from small_models.training.wan.dataset import MOTIONS, SHAPES, Scene

_MOVES = ("{} moves {}", "{} moving {}", "{} that moves {}", "{} is moving {}", "{} goes {}", "{} slides {}", "{} sliding {}")
_STAYS = ("{} stays still", "{} that does not move", "{} standing still", "{} does not move")
_WAYS = {
    "left": ("left", "to the left", "from right to left"),
    "right": ("right", "to the right", "from left to right"),
    "up": ("up", "upwards", "to the top"),
    "down": ("down", "downwards", "to the bottom"),
}
_OPENINGS = ("", "", "a video of ", "a clip of ")
_VAGUE = ("a video", "a clip", "a picture")
_GROUNDS = (" on a {} background", " on {}", " over a {} background", " in front of a {} background", ", {} background")


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Says what a scene shows.

    A motion that is not said is none, a background that is not said is white.

    Args:
        scene: What is shown.
        rng: Chooses the words.
    """
    article = pick(("a ", "a ", "a ", "the ", ""), rng)
    words = _moving(f"{article}{scene.color} {scene.shape}", scene.motion, rng)
    words = pick(_OPENINGS, rng) + words + _ground(scene, rng)
    if rng.random() < 0.2:
        words = words[0].upper() + words[1:]
    return words + ("." if rng.random() < 0.2 else "")


def colorless(scene: Scene, rng: np.random.Generator) -> str:
    """Says less of a scene than it shows: no color, which a picture then has to tell.

    Args:
        scene: What is shown.
        rng: Chooses the words.
    """
    if rng.random() < 0.3:
        return pick(_VAGUE, rng)
    return pick(_OPENINGS, rng) + _moving(f"a {scene.shape}", scene.motion, rng)


def sentences() -> tuple[str, ...]:
    """A text with every word that captions use: what a tokenizer has as its pieces."""
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


def _moving(figure: str, motion: str, rng: np.random.Generator) -> str:
    if motion == "still":
        return figure if rng.random() < 0.4 else pick(_STAYS, rng).format(figure)
    return pick(_MOVES, rng).format(figure, pick(_WAYS[motion], rng))


def _ground(scene: Scene, rng: np.random.Generator) -> str:
    if scene.background == "white" and rng.random() < 0.3:
        return ""
    return pick(_GROUNDS, rng).format(scene.background)
