"""Inpainting: the masked part of the reference is repainted, the rest keeps its pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from handlers.sdxl.features.img2img import REFERENCE_FIELD, effective_strength, encode_reference, strength_metadata
from handlers.sdxl.job_pipeline import JobPipeline
from handlers.sdxl.request import SdxlRequest
from shared.errors import Conflict, ValidationError
from shared.media.images import Pixels, fit, fit_with
from shared.weights.addons import AddonLibrary

MASK_FIELD = "config.mask"
"""The key of the mask among the downloaded images."""


def check(request: SdxlRequest, addons: AddonLibrary) -> None:
    """Refuses the refiner: it would receive noise inside the mask and a finished image outside.

    Raises:
        ValidationError: The request has both.
    """
    if request.refiner is not None:
        raise ValidationError([Conflict.between("config.refiner", "config.mask")])


@contextmanager
def apply(job: JobPipeline, request: SdxlRequest) -> Iterator[None]:
    """Replaces the pipeline by inpainting, and composites the reference over the unmasked part of each result."""
    from diffusers import StableDiffusionXLInpaintPipeline

    whole, size = job.references[REFERENCE_FIELD], (request.width, request.height)
    reference, mask = fit(whole, *size), fit_with(job.references[MASK_FIELD], whole, *size).convert("L")
    job.pipeline = with_safe_vae_encode(StableDiffusionXLInpaintPipeline, job.warn)(**job.pipeline.components, add_watermarker=False)
    job.pipeline.set_progress_bar_config(disable=True)
    job.arguments |= {"image": reference, "mask_image": mask, "strength": effective_strength(request)}
    job.metadata |= strength_metadata(request)
    job.after_decode = partial(composite, reference=reference, mask=mask)
    yield


def with_safe_vae_encode(kind: Any, warn: Callable[[str], None]) -> Any:
    """Returns an inpainting pipeline class whose VAE encoding keeps the VAE's precision and samples once per image.

    diffusers' own would cast the VAE to half precision, in which most of SDXL's VAEs overflow, and start every image of a batch from the
    sample of the first.

    Args:
        kind: An inpainting pipeline class.
        warn: Receives a warning for each fallback used.
    """

    def encode(pipeline: Any, image: Tensor, generator: list[torch.Generator]) -> Tensor:
        return encode_reference(pipeline, image, generator, warn)

    return type(kind.__name__, (kind,), {"_encode_vae_image": encode})


def composite(pixels: Pixels, reference: Image.Image, mask: Image.Image) -> Pixels:
    """Returns the generated pixels where the mask is white, the reference's exact pixels where it is black, and a blend between.

    Args:
        pixels: The generated image, height × width × 3.
        reference: RGB, of the same size.
        mask: Greyscale, of the same size.
    """
    return np.asarray(Image.composite(Image.fromarray(pixels), reference, mask))
