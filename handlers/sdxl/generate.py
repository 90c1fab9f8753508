"""Request → pictures."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from handlers.sdxl.prompts import embed
from handlers.sdxl.stage import ATTACHMENTS, Stage, staged
from shared.contract.sdxl import SdxlRequest
from shared.errors import ModelUnavailable
from shared.jobs.recipe import Picture, Product, Run, Summary
from shared.models.device import forget_vram_peak, vram_used_mb
from shared.models.pipelines import call_pipeline
from shared.models.pixels import to_pixels
from shared.weights.shelf import Shelf

# What the contract has and this worker cannot do yet: the request's attribute, and its name for the caller.
_UNAVAILABLE = {
    "vae": "config.vae",
    "controls": "config.controls",
    "refiner": "config.refiner",
    "upscale": "config.upscale",
    "reference": "metadata.reference_image_url",
}


class SdxlRecipe:
    """Text → image.

    Args:
        pipeline: A loaded `StableDiffusionXLPipeline`.
        shelf: What the operator put beside it.
    """

    def __init__(self, pipeline: Any, shelf: Shelf) -> None:
        self._pipeline = pipeline
        self._shelf = shelf

    def accept(self, request: SdxlRequest) -> None:
        """Refuses what this worker does not have, by name.

        Raises:
            ModelUnavailable: It names every such field.
        """
        fields = [name for attribute, name in _UNAVAILABLE.items() if getattr(request, attribute)]
        if fields:
            raise ModelUnavailable(f"This worker has no models for {', '.join(fields)}. Leave them out, or ask the operator to add them.")
        for attachment in ATTACHMENTS:
            attachment.accept(request, self._shelf)

    @torch.inference_mode()
    def generate(self, request: SdxlRequest, references: Mapping[str, Image.Image], run: Run) -> Generator[Product]:
        """Makes the request's pictures, one by one."""
        forget_vram_peak(self._pipeline.device)
        # 1. What the request puts on the pipeline, for this job alone
        with staged(self._pipeline, request, references, self._shelf) as stage:
            # 2. What to draw
            embeddings = embed(stage.pipeline, request.phrases, request.negative_phrases, request.clip_skip, stage.words)
            # 3. Where each picture starts: a generator of its own on the CPU, so that it is the same picture alone, in a batch, on any GPU
            noise = [torch.Generator("cpu").manual_seed(seed) for seed in request.seeds]
            # 4. Denoise all pictures together
            latents = self._denoise(stage, request, embeddings.arguments(), noise, run)
            # 5. Decode and hand over one by one: a picture is encoded and uploaded while the next is decoded
            for seed, latent in zip(request.seeds, torch.split(latents, 1), strict=True):
                run.cancel.check()
                yield Picture(to_pixels(_decode(stage, latent))[0], seed, request.output_format, _describe(request, stage))

    def summarize(self, request: SdxlRequest, products: Sequence[Product]) -> Summary:
        """Says what was done, for the payload."""
        return Summary(
            {
                "model_used": "sdxl",
                "enhancement_source": "none",
                "compel_enhancement": request.compel_enabled,
                "reference_mode": "none",
                "exact_copy_mode": False,
                "vram_used": vram_used_mb(self._pipeline.device),
            }
        )

    def _denoise(
        self, stage: Stage, request: SdxlRequest, embeddings: Mapping[str, Tensor], noise: list[torch.Generator], run: Run
    ) -> Tensor:
        """Pictures × channels × height/8 × width/8."""
        latents: Tensor = call_pipeline(
            stage.pipeline,
            run.step,
            **embeddings,
            **stage.arguments,
            width=request.width,
            height=request.height,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            guidance_rescale=request.guidance_rescale,
            num_images_per_prompt=request.num_images,
            generator=noise,
            output_type="latent",
        ).images
        return latents


def _decode(stage: Stage, latent: Tensor) -> Tensor:
    """1 × 3 × height × width, in 0 … 1."""
    vae = stage.pipeline.vae
    decoded: Tensor = vae.decode(latent.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
    return decoded / 2 + 0.5


def _describe(request: SdxlRequest, stage: Stage) -> dict[str, Any]:
    steps = int(stage.pipeline.scheduler.num_inference_steps)
    done = {"batch_size": request.num_images, "steps": steps, "num_inference_steps": steps, "guidance_scale": request.guidance_scale}
    return done | stage.notes
