"""Image→image: the reference, encoded and covered with noise, is where denoising starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from pydantic import JsonValue
from torch import Tensor

from handlers.sdxl.request import SdxlRequest
from shared.media.images import fit
from shared.models.oom import FREED, Rung, climb, in_tiles
from shared.weights.addons import Shelf

if TYPE_CHECKING:
    from handlers.sdxl.pipeline import Stage

REFERENCE = "metadata.reference_image_url"
"""The name of the main reference among those that were fetched."""


def accept(request: SdxlRequest, shelf: Shelf) -> None:
    """Every worker can do it."""


@contextmanager
def attached(stage: Stage, request: SdxlRequest, references: Mapping[str, Image.Image], shelf: Shelf) -> Iterator[None]:
    """Has denoising start from the reference, cropped in the middle to the picture's size."""
    if stage.method == "img2img":
        from diffusers import StableDiffusionXLImg2ImgPipeline

        pixels = stage.pipeline.image_processor.preprocess(fit(references[REFERENCE], request.width, request.height))
        start = encode(stage.pipeline, pixels, stage.noise, stage.warn)
        stage.pipeline = StableDiffusionXLImg2ImgPipeline(**stage.pipeline.components, add_watermarker=False)
        stage.pipeline.set_progress_bar_config(disable=True)
        stage.arguments, stage.each = {"strength": effective_strength(request)}, {"image": start}  # the size is the start's
        stage.notes |= describe(request)
    yield


def describe(request: SdxlRequest) -> dict[str, JsonValue]:
    """What is really done to the reference, for the metadata of pictures."""
    steps = effective_steps(request)
    return {"denoise_strength": effective_strength(request), "steps": steps, "num_inference_steps": steps}


def effective_steps(request: SdxlRequest) -> int:
    """How many of the schedule's steps are made: at least one."""
    return min(int(request.steps * effective_strength(request)), request.steps)


def effective_strength(request: SdxlRequest) -> float:
    """How much of the reference is painted over: what was asked for, or as little as makes one step."""
    least = 1 / request.steps
    while int(request.steps * least) < 1:
        least = math.nextafter(least, 1)
    return max(request.denoise, least)


def warnings(request: SdxlRequest) -> list[str]:
    """What the caller should know: that the picture is painted over a little more than asked."""
    if request.reference_method not in ("img2img", "inpaint") or int(request.steps * request.denoise) >= 1:
        return []
    asked = f"{request.steps} steps at a denoise strength of {request.denoise:g} are less than one"
    return [f"metadata.denoise_strength: {asked}; one step is made, at {effective_strength(request):.3g}"]


def encode(pipeline: Any, pixels: Tensor, noise: list[torch.Generator], warn: Callable[[str], None]) -> Tensor:
    """Encodes a picture, drawn once for each generator, as the pipeline would do.

    The pipeline would also cast the VAE to half precision afterwards, in which most of SDXL's overflow.

    Args:
        pipeline: Any SDXL pipeline.
        pixels: 1 × 3 × height × width, -1 … 1.
        noise: One generator for each picture that will start from it.
        warn: Is told what had to be done.

    Returns:
        Pictures × 4 × height/8 × width/8, in the precision of the UNet.

    Raises:
        OutOfMemory: Memory did not suffice with every remedy.
    """
    vae = pipeline.vae
    tiles = Rung("the reference was encoded in tiles", lambda: in_tiles(vae))
    distribution = climb(lambda: vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist, (FREED, tiles), warn)
    drawn = [distribution.sample(generator) for generator in noise]
    latents: Tensor = torch.cat(drawn).to(pipeline.unet.dtype) * vae.config.scaling_factor
    return latents
