"""Prompt adherence of the small SDXL: which attributes of held-out captions a classifier finds in the generated images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from small_models.training.sdxl.captions import caption
from small_models.training.sdxl.classifier import classify
from small_models.training.sdxl.dataset import Scene, sample_scene
from small_models.training.shapes import SIZE, Pixels
from small_models.training.tables import table

ATTRIBUTES = ("background", "color", "shape", "place")
_SEED = 2026

GenerateImage = Callable[[str, int], Pixels]
"""Generates an image, 64 × 64 × 3, from a prompt and a seed."""

_HALVES = {
    "left": (slice(None), slice(0, SIZE // 2)),
    "right": (slice(None), slice(SIZE // 2, SIZE)),
    "top": (slice(0, SIZE // 2), slice(None)),
    "bottom": (slice(SIZE // 2, SIZE), slice(None)),
}


def count_matches(pixels: Pixels, scene: Scene) -> Counter[str]:
    """Counts, for each attribute, how many of the scene's figures have it in the image. The background counts once per figure."""
    matches: Counter[str] = Counter()
    for figure in scene.figures:
        paired = len(scene.figures) > 1
        prediction = classify(pixels, region=_HALVES[figure.place] if paired else None)
        matches["background"] += prediction.background == scene.background
        matches["color"] += prediction.color == figure.color
        matches["shape"] += prediction.shape == figure.shape
        matches["place"] += bool(prediction.place) if paired else prediction.place == figure.place
    return matches


def held_out_captions(count: int, *, pairs: bool) -> list[tuple[str, Scene]]:
    """Returns captions of attribute combinations that were excluded from training, with their scenes; the same in every run."""
    rng = np.random.default_rng((_SEED, pairs))
    scenes = [sample_scene(rng, pairs=float(pairs), held_out=True) for _ in range(count)]
    return [(caption(scene, rng), scene) for scene in scenes]


def measure_adherence(generate: GenerateImage, count: int, *, pairs: bool = False) -> tuple[Counter[str], int]:
    """Generates images for held-out captions with the seeds 0, 1, 2 … and classifies them.

    Args:
        generate: The model.
        count: The number of captions.
        pairs: Whether the captions describe two figures, or one.

    Returns:
        The number of correct predictions of each attribute, and the number of figures.
    """
    matches: Counter[str] = Counter()
    for seed, (text, scene) in enumerate(held_out_captions(count, pairs=pairs)):
        matches += count_matches(generate(text, seed), scene)
    return matches, count * (1 + pairs)


def accuracy(matches: Counter[str], figures: int) -> float:
    """Returns the accuracy over all attributes, 0 … 1."""
    return sum(matches[name] for name in ATTRIBUTES) / (figures * len(ATTRIBUTES))


def accuracy_table(matches: Counter[str], figures: int) -> str:
    """Returns the accuracy of each attribute and of all as a Markdown table."""
    counts = {**{name: (matches[name], figures) for name in ATTRIBUTES}, "all": (matches.total(), figures * len(ATTRIBUTES))}
    rows = [(name, f"{correct} / {total}", f"{correct / total:.1%}") for name, (correct, total) in counts.items()]
    return table(("attribute", "correct", "accuracy"), rows)
