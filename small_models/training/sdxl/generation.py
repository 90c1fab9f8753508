"""Generates images with the small SDXL through the worker's own recipe."""

from __future__ import annotations

from pathlib import Path

from handlers.sdxl.request import SdxlRequest
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.recipe import ImageOutput, JobRun, Recipe
from shared.settings import Settings, prepare_environment
from small_models.training.shapes import SIZE, Pixels

STEPS = 20
GUIDANCE = 2.0


def load_recipe(folder: Path) -> Recipe[SdxlRequest]:
    """Loads an SDXL folder as the worker does."""
    prepare_environment()
    from handlers.sdxl.handler import load

    return load(Settings(sdxl_model=folder))


def generate_image(
    recipe: Recipe[SdxlRequest], prompt: str, seed: int, *, steps: int = STEPS, guidance: float = GUIDANCE, negative: str = ""
) -> Pixels:
    """Generates one image, 64 × 64 × 3."""
    config = {"resolution": f"{SIZE}x{SIZE}", "steps": steps, "guidance_scale": guidance, "seed": seed}
    job = {"id": "check", "user_id": "check", "type": "sdxl_image_fast", "prompt": prompt, "negative_prompt": negative, "config": config}
    request = SdxlRequest.parse(job, job_id="check")
    (output,) = recipe.generate(request, {}, JobRun("check", CancelToken(600), lambda done, total, *, text=None, preview=None: None))
    assert isinstance(output, ImageOutput)
    return output.pixels
