"""Img2img: denoising starts from the reference, encoded and noised."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor

from handlers.sdxl.job_pipeline import JobPipeline
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.tiling import in_small_tiles
from shared.media.images import fit
from shared.models.oom import EMPTY_CACHE, Fallback, run_with_fallbacks
from shared.weights.addons import AddonLibrary

REFERENCE_FIELD = "metadata.reference_image_url"
"""The key of the main reference among the downloaded images."""


def check(request: SdxlRequest, addons: AddonLibrary) -> None:
    """Accepts every request: img2img needs no further networks."""


@contextmanager
def apply(job: JobPipeline, request: SdxlRequest) -> Iterator[None]:
    """Replaces the pipeline by img2img from the reference, centre-cropped to the image's size."""
    from diffusers import StableDiffusionXLImg2ImgPipeline

    pixels = job.pipeline.image_processor.preprocess(fit(job.references[REFERENCE_FIELD], request.width, request.height))
    latents = encode_reference(job.pipeline, pixels, job.generators, job.warn)
    job.pipeline = StableDiffusionXLImg2ImgPipeline(**job.pipeline.components, add_watermarker=False)
    job.pipeline.set_progress_bar_config(disable=True)
    # The pipeline takes the size from the latents.
    job.arguments, job.image_arguments = {"strength": effective_strength(request)}, {"image": latents}
    job.metadata |= strength_metadata(request)
    yield


def strength_metadata(request: SdxlRequest) -> dict[str, JsonValue]:
    """Returns the effective strength and steps, for the metadata of images."""
    steps = effective_steps(request)
    return {"denoise_strength": effective_strength(request), "steps": steps, "num_inference_steps": steps}


def effective_steps(request: SdxlRequest) -> int:
    """Returns how many of the schedule's steps run: at least one."""
    return min(int(request.steps * effective_strength(request)), request.steps)


def effective_strength(request: SdxlRequest) -> float:
    """Returns the requested strength, or the smallest that yields one step."""
    smallest = 1 / request.steps
    while int(request.steps * smallest) < 1:
        smallest = math.nextafter(smallest, 1)
    return max(request.img2img_strength, smallest)


def warnings(request: SdxlRequest) -> list[str]:
    """Returns a warning if the strength had to be raised."""
    if int(request.steps * request.img2img_strength) >= 1:
        return []
    requested = f"{request.steps} steps at a strength of {request.img2img_strength:g} are less than one step"
    return [f"metadata.denoise_strength: {requested}; one step is run, at {effective_strength(request):.3g}"]


def encode_reference(pipeline: Any, pixels: Tensor, generators: list[torch.Generator], warn: Callable[[str], None]) -> Tensor:
    """Encodes a reference as diffusers' pipelines do, with one sample of the latent distribution per image.

    diffusers would also cast the VAE to half precision afterwards, in which most of SDXL's VAEs overflow.

    Args:
        pipeline: Any SDXL pipeline.
        pixels: 1 × 3 × height × width, -1 … 1.
        generators: One per image that starts from the reference.
        warn: Receives a warning for each fallback used.

    Returns:
        Images × 4 × height/8 × width/8, in the UNet's precision.

    Raises:
        OutOfMemory: Memory was insufficient with every fallback.
    """
    vae = pipeline.vae
    tiles = Fallback("the reference was encoded in tiles", lambda: in_small_tiles(vae))
    distribution = run_with_fallbacks(lambda: vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist, (EMPTY_CACHE, tiles), warn)
    samples = [distribution.sample(generator) for generator in generators]
    latents: Tensor = torch.cat(samples).to(pipeline.unet.dtype) * vae.config.scaling_factor
    return latents
