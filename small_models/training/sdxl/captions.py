"""Sentences about pictures: several ways to say the same."""

from __future__ import annotations

import numpy as np

from small_models.training.shapes import PALETTE, PLACES, SHAPES, Figure, Scene

_PLACE_WORDS = {
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
    """Says what a scene shows.

    A place that is not said is the centre, a background that is not said is plain white. A size that is not said may be any.

    Args:
        scene: What is shown.
        rng: Chooses the words.
    """
    terse = rng.random() < 0.25
    figures = [_figure(figure, rng, terse=terse) for figure in scene.figures]
    subject = (", " if terse else " and ").join(figures)
    ground = _ground(scene, rng, terse=terse)
    return (subject if terse else pick(_OPENINGS, rng) + subject) + ground


def sentences() -> tuple[str, ...]:
    """A text with every word that captions use, several times: what a tokenizer learns its pieces from."""
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


def pick(words: tuple[str, ...], rng: np.random.Generator) -> str:
    """One of them, by chance."""
    return words[rng.integers(len(words))]


def _figure(figure: Figure, rng: np.random.Generator, *, terse: bool) -> str:
    size = pick(_SIZE_WORDS[figure.size], rng) + " " if rng.random() < 0.5 else ""
    words = f"{size}{figure.color} {figure.shape}"
    if figure.place != "centre" or rng.random() < 0.3:
        words += " " + pick(_PLACE_WORDS[figure.place], rng)
    return words if terse else f"a {words}"


def _ground(scene: Scene, rng: np.random.Generator, *, terse: bool) -> str:
    if scene.background == "white" and not scene.striped and rng.random() < 0.5:
        return ""
    tone = f"striped {scene.background}" if scene.striped else scene.background
    if terse or rng.random() < 0.3:
        return f", {tone} background"
    ways: tuple[str, ...] = (f" on a {tone} background", f" on {tone}", f" in front of a {tone} background")
    if scene.striped:
        ways = (*ways, f" on {scene.background} stripes")
    return pick(ways, rng)
