"""The refiner's denoising pass over the latents of the base UNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from handlers.sdxl.progress import ProgressCounter
from handlers.sdxl.prompts import PromptEmbeddings
from handlers.sdxl.request import SdxlRequest
from shared.models.pipelines import call_pipeline


@dataclass(frozen=True)
class RefinerPass:
    """The last steps of a job, ready to run.

    Attributes:
        pipeline: An img2img pipeline with the refiner's UNet.
        start: The fraction of the noise schedule that the base UNet has denoised.
        schedule_steps: Steps of the whole schedule.
        steps: Steps of this pass.
        offload: Whether the refiner leaves the GPU after each call, because it does not fit next to a job.
    """

    pipeline: Any
    start: float
    schedule_steps: int
    steps: int
    offload: bool = False

    def run(
        self,
        latents: Tensor,
        embeddings: PromptEmbeddings,
        generators: Sequence[torch.Generator],
        request: SdxlRequest,
        progress: ProgressCounter,
    ) -> Tensor:
        """Denoises the rest of the schedule.

        Args:
            latents: Images × 4 × height/8 × width/8, at the noise level where the refiner takes over.
            embeddings: The prompt embeddings of the base pass.
            generators: One per image, as the base pass left them.
            request: The job.
            progress: Receives the steps.

        Returns:
            Latents of the same shape.
        """
        unet = self.pipeline.unet
        unet.to(latents.device)
        try:
            refined: Tensor = call_pipeline(
                self.pipeline,
                progress.refiner_step,
                progress.preview,
                **embeddings.for_width(unet.config.cross_attention_dim),
                image=latents,
                denoising_start=self.start,
                num_inference_steps=self.schedule_steps,
                guidance_scale=request.guidance_scale,
                guidance_rescale=request.guidance_rescale,
                num_images_per_prompt=len(generators),
                generator=list(generators),
                output_type="latent",
            ).images
        finally:
            if self.offload:
                unet.to("cpu")
        return refined
