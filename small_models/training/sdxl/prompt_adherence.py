"""Whether pictures show what their captions say: held-out captions, fixed seeds, attributes read from pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from small_models.training.sdxl.captions import caption
from small_models.training.sdxl.classifier import classify
from small_models.training.shapes import SIZE, Pixels, Scene, sample_scene
from small_models.training.tables import table

ATTRIBUTES = ("background", "color", "shape", "place")
_SEED = 2026

Draw = Callable[[str, int], Pixels]
"""A prompt and a seed → a picture, 64 × 64 × 3."""

_HALVES = {
    "left": (slice(None), slice(0, SIZE // 2)),
    "right": (slice(None), slice(SIZE // 2, SIZE)),
    "top": (slice(0, SIZE // 2), slice(None)),
    "bottom": (slice(SIZE // 2, SIZE), slice(None)),
}


def compare(pixels: Pixels, scene: Scene) -> Counter[str]:
    """How many of each attribute a picture shows right: of one figure and the background, or of two figures."""
    right: Counter[str] = Counter()
    for figure in scene.figures:
        paired = len(scene.figures) > 1
        reading = classify(pixels, region=_HALVES[figure.place] if paired else None)
        right["background"] += reading.background == scene.background
        right["color"] += reading.color == figure.color
        right["shape"] += reading.shape == figure.shape
        right["place"] += bool(reading.place) if paired else reading.place == figure.place
    return right


def held_out(count: int, *, pairs: bool) -> list[tuple[str, Scene]]:
    """Captions of combinations that training never saw, always the same ones, with what they describe."""
    rng = np.random.default_rng((_SEED, pairs))
    scenes = [sample_scene(rng, pairs=float(pairs), held_out=True) for _ in range(count)]
    return [(caption(scene, rng), scene) for scene in scenes]


def measure_adherence(draw: Draw, count: int, *, pairs: bool = False) -> tuple[Counter[str], int]:
    """Draws held-out captions with the seeds 0, 1, 2 … and reads what came of them.

    Args:
        draw: Makes the pictures.
        count: How many captions.
        pairs: Whether they have two figures, or one.

    Returns:
        How often each attribute is right, and out of how many figures.
    """
    right: Counter[str] = Counter()
    for seed, (text, scene) in enumerate(held_out(count, pairs=pairs)):
        right += compare(draw(text, seed), scene)
    return right, count * (1 + pairs)


def accuracy(right: Counter[str], figures: int) -> float:
    """All attributes together, 0 … 1."""
    return sum(right[name] for name in ATTRIBUTES) / (figures * len(ATTRIBUTES))


def shares_table(right: Counter[str], figures: int) -> str:
    """The figures as Markdown."""
    counts = {**{name: (right[name], figures) for name in ATTRIBUTES}, "all": (right.total(), figures * len(ATTRIBUTES))}
    rows = [(name, f"{found} / {of}", f"{found / of:.1%}") for name, (found, of) in counts.items()]
    return table(("attribute", "right", "share"), rows)
