"""Measures whether the small SDXL follows its prompts: held-out captions, fixed seeds, the recipe that serves.

`python -m builder.check_small_models small_models/sdxl` prints how many pictures show what their captions say, attribute by attribute.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from builder.small.captions import caption
from builder.small.detector import read
from builder.small.shapes import SIZE, Pixels, Scene, draw_scene
from shared.contract.sdxl import SdxlRequest
from shared.jobs.cancel import CancelToken
from shared.jobs.recipe import Picture, Recipe, Run
from shared.settings import Settings, prepare_environment

ATTRIBUTES = ("background", "color", "shape", "place")

_HALVES = {
    "left": (slice(None), slice(0, SIZE // 2)),
    "right": (slice(None), slice(SIZE // 2, SIZE)),
    "top": (slice(0, SIZE // 2), slice(None)),
    "bottom": (slice(SIZE // 2, SIZE), slice(None)),
}


def load_recipe(folder: Path) -> Recipe[SdxlRequest]:
    """Loads a small SDXL as the worker does."""
    prepare_environment()
    from handlers.sdxl.handler import load

    return load(Settings(sdxl_model=folder))


def draw(recipe: Recipe[SdxlRequest], prompt: str, *, seed: int, steps: int = 20, guidance: float = 3.0) -> Pixels:
    """Has the recipe make one picture, 64 × 64 × 3."""
    config = {"resolution": f"{SIZE}x{SIZE}", "steps": steps, "guidance_scale": guidance, "seed": seed}
    raw = {"id": "check", "user_id": "check", "type": "sdxl_image_fast", "prompt": prompt, "config": config}
    request = SdxlRequest.parse(raw, job_id="check")
    (product,) = recipe.generate(request, {}, Run("check", CancelToken(600), lambda done, total, *, text=None: None))
    assert isinstance(product, Picture)
    return product.pixels


def compare(pixels: Pixels, scene: Scene) -> Counter[str]:
    """How many of each attribute a picture shows right: of one figure and the background, or of two figures."""
    right: Counter[str] = Counter()
    for figure in scene.figures:
        paired = len(scene.figures) > 1
        reading = read(pixels, region=_HALVES[figure.place] if paired else None)
        right["background"] += reading.background == scene.background
        right["color"] += reading.color == figure.color
        right["shape"] += reading.shape == figure.shape
        right["place"] += bool(reading.place) if paired else reading.place == figure.place
    return right


def measure(recipe: Recipe[SdxlRequest], count: int, *, pairs: bool, steps: int, guidance: float) -> tuple[Counter[str], int]:
    """Draws held-out captions and reads what came of them.

    Returns:
        How often each attribute is right, and out of how many.
    """
    rng = np.random.default_rng(2026 + pairs)
    right: Counter[str] = Counter()
    figures = 0
    for seed in range(count):
        scene = draw_scene(rng, pairs=float(pairs), held_out=True)
        right += compare(draw(recipe, caption(scene, rng), seed=seed, steps=steps, guidance=guidance), scene)
        figures += len(scene.figures)
    return right, figures


def table(right: Counter[str], total: int) -> str:
    """The figures as Markdown."""
    rows = [f"| {name} | {right[name]} / {total} | {right[name] / total:.1%} |" for name in ATTRIBUTES]
    every = sum(right[name] for name in ATTRIBUTES)
    whole = f"| all | {every} / {total * len(ATTRIBUTES)} | {every / total / len(ATTRIBUTES):.1%} |"
    return "\n".join(["| attribute | right | share |", "|---|---|---|", *rows, whole])


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m builder.check_small_models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the small SDXL's diffusers folder")
    parser.add_argument("--count", type=int, default=200, help="captions with one figure (default 200); with two figures half as many")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps (default 20)")
    parser.add_argument("--guidance", type=float, default=3.0, help="guidance scale (default 3)")
    options = parser.parse_args(arguments)
    recipe = load_recipe(options.folder)
    for title, pairs, count in (("One figure", False, options.count), ("Two figures", True, options.count // 2)):
        right, total = measure(recipe, count, pairs=pairs, steps=options.steps, guidance=options.guidance)
        print(f"{title}\n\n{table(right, total)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
