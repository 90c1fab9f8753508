"""Captions of the small SDXL's scenes, with many phrasings of the same content."""

from __future__ import annotations

import numpy as np

from small_models.training.sdxl.dataset import PLACES, SHAPES, Figure, Scene
from small_models.training.shapes import PALETTE

_PLACE_PHRASES = {
    "centre": ("in the centre", "in the middle"),
    "left": ("on the left", "at the left"),
    "right": ("on the right", "at the right"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    **{corner: (f"at the {corner}", f"in the {corner} corner") for corner in PLACES if " " in corner},
}
_SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
_OPENINGS = ("", "", "a picture of ", "a drawing of ", "a photo of ")


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describes a scene.

    An omitted place means the center, an omitted background plain white. An omitted size may be either.

    Args:
        scene: The scene.
        rng: Selects the phrasing.
    """
    terse = rng.random() < 0.25
    figures = [_figure(figure, rng, terse=terse) for figure in scene.figures]
    subject = (", " if terse else " and ").join(figures)
    background = _background(scene, rng, terse=terse)
    return (subject if terse else pick(_OPENINGS, rng) + subject) + background


def tokenizer_corpus() -> tuple[str, ...]:
    """Returns captions that contain every word of the vocabulary several times, to train a tokenizer on."""
    rng = np.random.default_rng(0)
    scenes = [
        Scene((Figure(shape, color, place, size),), "white" if color != "white" else "black", striped)
        for shape in SHAPES
        for color in PALETTE
        for place in PLACES
        for size in _SIZE_WORDS
        for striped in (False, True)
    ]
    return tuple(caption(scene, rng) for scene in scenes)


def pick(phrases: tuple[str, ...], rng: np.random.Generator) -> str:
    """Returns a random element."""
    return phrases[rng.integers(len(phrases))]


def _figure(figure: Figure, rng: np.random.Generator, *, terse: bool) -> str:
    size = pick(_SIZE_WORDS[figure.size], rng) + " " if rng.random() < 0.5 else ""
    phrase = f"{size}{figure.color} {figure.shape}"
    if figure.place != "centre" or rng.random() < 0.3:
        phrase += " " + pick(_PLACE_PHRASES[figure.place], rng)
    return phrase if terse else f"a {phrase}"


def _background(scene: Scene, rng: np.random.Generator, *, terse: bool) -> str:
    if scene.background == "white" and not scene.striped and rng.random() < 0.5:
        return ""
    tone = f"striped {scene.background}" if scene.striped else scene.background
    if terse or rng.random() < 0.3:
        return f", {tone} background"
    phrases: tuple[str, ...] = (f" on a {tone} background", f" on {tone}", f" in front of a {tone} background")
    if scene.striped:
        phrases = (*phrases, f" on {scene.background} stripes")
    return pick(phrases, rng)
