"""Generates images with the small SDXL, through the worker's recipe or a plain diffusers pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.load import load_sdxl
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


def load_pipeline(sdxl: Path) -> Any:
    """Loads the small SDXL on the CPU, in float32."""
    return load_sdxl(sdxl, torch.device("cpu"), torch.float32)


def generate_images(pipeline: Any, prompts: list[str], seeds: list[int], **parameters: Any) -> Pixels:
    """Generates one image per prompt and seed in a single call.

    Args:
        pipeline: An SDXL pipeline of diffusers.
        prompts: The prompts.
        seeds: As many seeds.
        parameters: Further arguments of the pipeline.

    Returns:
        Count × 64 × 64 × 3.
    """
    images = pipeline(
        prompts,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **parameters,
    ).images
    return np.stack([np.asarray(image) for image in images])
