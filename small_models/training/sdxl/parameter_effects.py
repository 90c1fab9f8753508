"""Whether parameters move pictures as they should: guidance, steps, negative prompt, seed, and strength against a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from handlers.sdxl.request import SdxlRequest
from shared.jobs.recipe import Recipe
from small_models.training.addons.evaluation import draw_directly, load_pipeline
from small_models.training.sdxl.classifier import classify
from small_models.training.sdxl.generation import generate_image
from small_models.training.sdxl.prompt_adherence import ATTRIBUTES, compare, held_out
from small_models.training.shapes import Pixels, Scene, render
from small_models.training.tables import table

GUIDANCES = (1.0, 2.0, 4.0)
STEP_COUNTS = (10, 20, 35)
_MOST_STEPS = 50
STRENGTHS = (0.1, 0.3, 0.6, 1.0)
_WHITE = "a red circle"
_NOT_WHITE = "a red circle on a white background"
_WHITES = "have a white background"


def behaviour(recipe: Recipe[SdxlRequest], folder: Path, count: int) -> str:
    """Measures what each parameter does, over so many seeds each.

    Args:
        recipe: The small SDXL as the worker loaded it.
        folder: Where it was loaded from.
        count: How many pictures for each row.

    Returns:
        A Markdown table.
    """
    plain = [generate_image(recipe, _WHITE, seed) for seed in range(count)]
    rows = [
        *(
            (f"steps {steps}", f"{away:.1f} levels from the picture of {_MOST_STEPS} steps")
            for steps, away in _settled(recipe, count).items()
        ),
        _row(f"prompt “{_WHITE}”", _WHITES, _white(plain)),
        *(
            _row(f"… negative prompt “{_NOT_WHITE}”, guidance {value:g}", _WHITES, _white(_without_white(recipe, count, value)))
            for value in GUIDANCES
        ),
        _row("the same seed again", "are the same to the bit", _repeated(recipe, plain)),
        _row("another seed", "are another picture", len({picture.tobytes() for picture in plain}) / count),
    ]
    for strength, (away, old, new) in against_reference(folder, count).items():
        shown = f"{away:.0f} levels from it, {old:.0%} of its attributes, {new:.0%} of the prompt's"
        rows.append((f"strength {strength:g} against a reference", shown))
    return table(("parameter", "effect"), rows)


def _row(parameter: str, effect: str, value: float) -> tuple[str, str]:
    return parameter, f"{value:.1%} {effect}"


def _settled(recipe: Recipe[SdxlRequest], count: int) -> dict[int, float]:
    """For each number of steps, how far pictures are from those with many steps: the mean difference in levels of 255."""
    apart: dict[int, list[float]] = {steps: [] for steps in STEP_COUNTS}
    for seed, (prompt, _) in enumerate(held_out(count, pairs=False)):
        settled = generate_image(recipe, prompt, seed, steps=_MOST_STEPS).astype(float)
        for steps in STEP_COUNTS:
            apart[steps].append(float(np.abs(generate_image(recipe, prompt, seed, steps=steps) - settled).mean()))
    return {steps: float(np.mean(found)) for steps, found in apart.items()}


def _without_white(recipe: Recipe[SdxlRequest], count: int, guidance: float) -> list[Pixels]:
    return [generate_image(recipe, _WHITE, seed, negative=_NOT_WHITE, guidance=guidance) for seed in range(count)]


def _white(pictures: list[Pixels]) -> float:
    return float(np.mean([classify(picture).background == "white" for picture in pictures]))


def _repeated(recipe: Recipe[SdxlRequest], pictures: list[Pixels]) -> float:
    """The share of pictures, of a fifth of them, that are drawn again to the bit."""
    again = [np.array_equal(picture, generate_image(recipe, _WHITE, seed)) for seed, picture in enumerate(pictures[: len(pictures) // 5])]
    return float(np.mean(again))


def against_reference(folder: Path, count: int) -> dict[float, tuple[float, float, float]]:
    """Starts from rendered references and asks for something else.

    Returns:
        For each strength: how far the result is from the reference (mean difference in levels of 255), and the shares of the reference's
        and of the prompt's attributes that it shows, 0 … 1.
    """
    pipeline = _image_to_image(folder)
    drawn = held_out(2 * count, pairs=False)
    cases = [(prompt, new, old) for (prompt, new), (_, old) in zip(drawn[:count], drawn[count:], strict=True)]
    found = {}
    for strength in STRENGTHS:
        measured = [_compare_both(pipeline, strength, seed, *case) for seed, case in enumerate(cases)]
        away, old, new = np.mean(measured, axis=0)
        found[strength] = (float(away), float(old), float(new))
    return found


def _compare_both(pipeline: Any, strength: float, seed: int, prompt: str, new: Scene, old: Scene) -> tuple[float, float, float]:
    reference = render(old, np.random.default_rng(seed))
    (result,) = draw_directly(pipeline, [prompt], [seed], image=Image.fromarray(reference), strength=strength)
    away = float(np.abs(result.astype(float) - reference).mean())
    return away, compare(result, old).total() / len(ATTRIBUTES), compare(result, new).total() / len(ATTRIBUTES)


def _image_to_image(folder: Path) -> Any:
    from diffusers import StableDiffusionXLImg2ImgPipeline

    components = load_pipeline(folder).components
    pipeline = StableDiffusionXLImg2ImgPipeline(**components, force_zeros_for_empty_prompt=False, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
