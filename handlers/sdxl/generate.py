"""Request → pictures."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from handlers.sdxl.image_to_image import REFERENCE, effective_strength, warnings
from handlers.sdxl.prompts import embed
from handlers.sdxl.stage import ATTACHMENTS, Stage, staged
from shared.contract.sdxl import Method, SdxlRequest
from shared.errors import ModelUnavailable
from shared.jobs.recipe import Picture, Product, Run, Summary
from shared.media.images import fit
from shared.models.device import forget_vram_peak, vram_used_mb
from shared.models.pipelines import call_pipeline
from shared.models.pixels import to_pixels
from shared.weights.shelf import Shelf

# What the contract has and this worker cannot do yet: the request's attribute, and its name for the caller.
_UNAVAILABLE = {
    "refiner": "config.refiner",
    "upscale": "config.upscale",
}


class SdxlRecipe:
    """Text → image, image → image, and copies.

    Args:
        pipeline: A loaded `StableDiffusionXLPipeline`.
        shelf: What the operator put beside it.
        without_adapters: Whether every type of reference is served by image → image.
    """

    def __init__(self, pipeline: Any, shelf: Shelf, *, without_adapters: bool = False) -> None:
        self._pipeline = pipeline
        self._shelf = shelf
        self._without_adapters = without_adapters

    def accept(self, request: SdxlRequest) -> None:
        """Refuses what this worker does not have, by name.

        Raises:
            ModelUnavailable: It names every such field.
        """
        fields = [name for attribute, name in _UNAVAILABLE.items() if getattr(request, attribute)]
        if fields:
            raise ModelUnavailable(f"This worker has no models for {', '.join(fields)}. Leave them out, or ask the operator to add them.")
        if self._method(request) == "adapter":
            raise ModelUnavailable(
                f"metadata.reference_type: this worker has no adapter for {request.reference_type!r}. Send reference_mode 'modify' for "
                "image→image, leave the reference out, or ask the operator to add one or to set SDXL_REFERENCE_METHOD=img2img."
            )
        for attachment in ATTACHMENTS:
            attachment.accept(request, self._shelf)

    @torch.inference_mode()
    def generate(self, request: SdxlRequest, references: Mapping[str, Image.Image], run: Run) -> Generator[Product]:
        """Makes the request's pictures, one by one."""
        forget_vram_peak(self._pipeline.device)
        method = self._method(request)
        if method == "copy":
            yield from _copies(request, references[REFERENCE])
            return
        # 1. What the request puts on the pipeline, for this job alone
        with staged(self._pipeline, request, references, self._shelf, method) as stage:
            # 2. What to draw
            embeddings = embed(stage.pipeline, request.phrases, request.negative_phrases, request.clip_skip, stage.words)
            # 3. Denoise all pictures together
            latents = self._denoise(stage, request, embeddings.arguments(), run)
            # 4. Decode and hand over one by one: a picture is encoded and uploaded while the next is decoded
            for seed, latent in zip(request.seeds, torch.split(latents, 1), strict=True):
                run.cancel.check()
                yield Picture(to_pixels(_decode(stage, latent))[0], seed, request.output_format, _describe(request, stage))

    def summarize(self, request: SdxlRequest, products: Sequence[Product]) -> Summary:
        """Says what was done, for the payload."""
        method = self._method(request)
        metadata: dict[str, Any] = {
            "model_used": "sdxl",
            "enhancement_source": "none",
            "compel_enhancement": request.compel_enabled,
            "reference_mode": _mode(request),
            "exact_copy_mode": method == "copy",
            "vram_used": vram_used_mb(self._pipeline.device),
        }
        if method == "none":
            return Summary(metadata)
        used = 0.0 if method == "copy" else effective_strength(request)
        metadata |= {"reference_method": method, "reference_strength": round(1 - used, 6), "denoise_strength": used}
        return Summary(metadata, warnings=warnings(request) if method == "img2img" else ())

    def _method(self, request: SdxlRequest) -> Method:
        return "img2img" if self._without_adapters and request.reference_method == "adapter" else request.reference_method

    def _denoise(self, stage: Stage, request: SdxlRequest, embeddings: Mapping[str, Any], run: Run) -> Tensor:
        """Pictures × channels × height/8 × width/8."""
        latents: Tensor = call_pipeline(
            stage.pipeline,
            run.step,
            **embeddings,
            **stage.arguments,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            guidance_rescale=request.guidance_rescale,
            num_images_per_prompt=request.num_images,
            generator=stage.noise,
            output_type="latent",
        ).images
        return latents


def _copies(request: SdxlRequest, reference: Image.Image) -> Iterator[Product]:
    """The reference as it is, cropped in the middle to the picture's size: nothing is painted over, so nothing is computed."""
    pixels = np.asarray(fit(reference, request.width, request.height))
    done = {"batch_size": request.num_images, "steps": 0, "num_inference_steps": 0, "guidance_scale": 1.0, "denoise_strength": 0.0}
    for seed in request.seeds:
        yield Picture(pixels, seed, request.output_format, done)


def _mode(request: SdxlRequest) -> str:
    """As the contract reports it: `modify`, `copy`, or the type of the reference."""
    match request.reference_method:
        case "none":
            return "none"
        case "copy":
            return "copy"
        case "img2img":
            return "modify"
        case "adapter":
            return request.reference_type


def _decode(stage: Stage, latent: Tensor) -> Tensor:
    """1 × 3 × height × width, in 0 … 1."""
    vae = stage.pipeline.vae
    decoded: Tensor = vae.decode(latent.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
    return decoded / 2 + 0.5


def _describe(request: SdxlRequest, stage: Stage) -> dict[str, Any]:
    steps = int(stage.pipeline.scheduler.num_inference_steps)
    done = {"batch_size": request.num_images, "steps": steps, "num_inference_steps": steps, "guidance_scale": request.guidance_scale}
    return done | stage.notes
