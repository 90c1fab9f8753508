"""Effects of request parameters on the small SDXL's images: steps, guidance, negative prompt, seed, and img2img strength."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from handlers.sdxl.request import SdxlRequest
from shared.jobs.recipe import Recipe
from small_models.training.sdxl.classifier import classify
from small_models.training.sdxl.dataset import Scene, render
from small_models.training.sdxl.generation import generate_image, generate_images, load_pipeline
from small_models.training.sdxl.prompt_adherence import ATTRIBUTES, count_matches, held_out_captions
from small_models.training.shapes import Pixels
from small_models.training.tables import table

GUIDANCE_SCALES = (1.0, 2.0, 4.0)
STEP_COUNTS = (10, 20, 35)
_REFERENCE_STEPS = 50
STRENGTHS = (0.1, 0.3, 0.6, 1.0)
_PROMPT = "a red circle"
_NEGATIVE_PROMPT = "a red circle on a white background"
_WHITE_BACKGROUND = "have a white background"


def parameter_effects_table(recipe: Recipe[SdxlRequest], folder: Path, count: int) -> str:
    """Measures the effect of each parameter.

    Args:
        recipe: The small SDXL, loaded as the worker does.
        folder: The model's folder.
        count: The number of seeds for each row.

    Returns:
        A Markdown table.
    """
    baseline = [generate_image(recipe, _PROMPT, seed) for seed in range(count)]
    rows = [
        *(
            (f"steps {steps}", f"mean absolute difference of {difference:.1f} levels from {_REFERENCE_STEPS} steps")
            for steps, difference in _convergence(recipe, count).items()
        ),
        _row(f"prompt “{_PROMPT}”", _WHITE_BACKGROUND, _white_background_rate(baseline)),
        *(
            _row(
                f"… negative prompt “{_NEGATIVE_PROMPT}”, guidance {guidance:g}",
                _WHITE_BACKGROUND,
                _white_background_rate(_with_negative_prompt(recipe, count, guidance)),
            )
            for guidance in GUIDANCE_SCALES
        ),
        _row("same seed again", "are bit-identical", _reproducibility(recipe, baseline)),
        _row("different seeds", "are distinct", len({image.tobytes() for image in baseline}) / count),
    ]
    for strength, (difference, of_reference, of_prompt) in img2img_effects(folder, count).items():
        effect = f"{difference:.0f} levels from the reference, {of_reference:.0%} of its attributes, {of_prompt:.0%} of the prompt's"
        rows.append((f"img2img strength {strength:g}", effect))
    return table(("parameter", "effect"), rows)


def _row(parameter: str, effect: str, value: float) -> tuple[str, str]:
    return parameter, f"{value:.1%} {effect}"


def _convergence(recipe: Recipe[SdxlRequest], count: int) -> dict[int, float]:
    """Returns, for each number of steps, the mean absolute difference from the image of many steps, in levels of 255."""
    differences: dict[int, list[float]] = {steps: [] for steps in STEP_COUNTS}
    for seed, (prompt, _) in enumerate(held_out_captions(count, pairs=False)):
        converged = generate_image(recipe, prompt, seed, steps=_REFERENCE_STEPS).astype(float)
        for steps in STEP_COUNTS:
            differences[steps].append(float(np.abs(generate_image(recipe, prompt, seed, steps=steps) - converged).mean()))
    return {steps: float(np.mean(measured)) for steps, measured in differences.items()}


def _with_negative_prompt(recipe: Recipe[SdxlRequest], count: int, guidance: float) -> list[Pixels]:
    return [generate_image(recipe, _PROMPT, seed, negative=_NEGATIVE_PROMPT, guidance=guidance) for seed in range(count)]


def _white_background_rate(images: list[Pixels]) -> float:
    return float(np.mean([classify(image).background == "white" for image in images]))


def _reproducibility(recipe: Recipe[SdxlRequest], images: list[Pixels]) -> float:
    """Returns the fraction of images that are bit-identical when generated again; a fifth of them is tried."""
    identical = [np.array_equal(image, generate_image(recipe, _PROMPT, seed)) for seed, image in enumerate(images[: len(images) // 5])]
    return float(np.mean(identical))


def img2img_effects(folder: Path, count: int) -> dict[float, tuple[float, float, float]]:
    """Runs img2img from rendered references with prompts for other scenes.

    Returns:
        For each strength: the mean absolute difference from the reference in levels of 255, and the fractions of the reference's and of
        the prompt's attributes in the result, 0 … 1.
    """
    pipeline = _img2img_pipeline(folder)
    captions = held_out_captions(2 * count, pairs=False)
    cases = [(prompt, target, reference) for (prompt, target), (_, reference) in zip(captions[:count], captions[count:], strict=True)]
    effects = {}
    for strength in STRENGTHS:
        measured = [_img2img(pipeline, strength, seed, *case) for seed, case in enumerate(cases)]
        difference, of_reference, of_prompt = np.mean(measured, axis=0)
        effects[strength] = (float(difference), float(of_reference), float(of_prompt))
    return effects


def _img2img(pipeline: Any, strength: float, seed: int, prompt: str, target: Scene, source: Scene) -> tuple[float, float, float]:
    reference = render(source, np.random.default_rng(seed))
    (result,) = generate_images(pipeline, [prompt], [seed], image=Image.fromarray(reference), strength=strength)
    difference = float(np.abs(result.astype(float) - reference).mean())
    total = len(ATTRIBUTES)
    return difference, count_matches(result, source).total() / total, count_matches(result, target).total() / total


def _img2img_pipeline(folder: Path) -> Any:
    from diffusers import StableDiffusionXLImg2ImgPipeline

    components = load_pipeline(folder).components
    pipeline = StableDiffusionXLImg2ImgPipeline(**components, force_zeros_for_empty_prompt=False, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
