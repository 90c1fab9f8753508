"""Request → a clip, or a picture of one frame."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from handlers.wan.solvers import make_solver, solved_by
from shared.contract.wan import WanRequest
from shared.errors import ModelUnavailable
from shared.jobs.recipe import Clip, Picture, Product, Run, Summary
from shared.models.device import forget_vram_peak, vram_used_mb
from shared.models.pipelines import call_pipeline
from shared.models.pixels import to_pixels

# Tokens that WAN was trained with. Longer prompts are encoded whole all the same: neither network has a limit of its own.
_TEXT_LENGTH = 512


class WanRecipe:
    """Text → video, and text → image.

    Args:
        pipeline: A loaded `WanPipeline`.
    """

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    def accept(self, request: WanRequest) -> None:
        """Refuses what this worker does not have.

        Raises:
            ModelUnavailable: The request has references.
        """
        if request.references:
            names = ", ".join(request.references)
            raise ModelUnavailable(f"This worker has no models for references ({names}). Leave them out, or ask the operator to add them.")

    @torch.inference_mode()
    def generate(self, request: WanRequest, references: Mapping[str, Image.Image], run: Run) -> Generator[Product]:
        """Makes one clip of exactly the frames that were asked for, or one picture."""
        forget_vram_peak(self._pipeline.device)
        # 1. Where it starts: a generator on the CPU, so that the seed means the same on any GPU
        noise = torch.Generator("cpu").manual_seed(request.seed)
        # 2. Denoise and decode at the next length that the VAE can have
        with solved_by(self._pipeline, make_solver(request.sample_solver, request.sample_shift)):
            video = self._denoise(request, noise, run)
        # 3. Cut to the length that was asked for
        run.cancel.check()
        frames = to_pixels(video[: request.frames])
        # 4. Hand over
        yield self._product(request, frames)

    def summarize(self, request: WanRequest, products: Sequence[Product]) -> Summary:
        """Says what was done, for the payload."""
        return Summary(
            {
                "model_used": "wan",
                "enhancement_source": "none",
                "auto_enhancement": False,
                "compel_enhancement": False,
                "reference_mode": request.reference_mode,
                "exact_copy_mode": False,
                "vram_used": vram_used_mb(self._pipeline.device),
            }
        )

    def _denoise(self, request: WanRequest, noise: torch.Generator, run: Run) -> Tensor:
        """Frames × 3 × height × width, in 0 … 1; up to three frames more than were asked for."""
        video: Tensor = call_pipeline(
            self._pipeline,
            run.step,
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            width=request.width,
            height=request.height,
            num_frames=made_frames(request.frames),
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            max_sequence_length=self._text_length(request),
            generator=noise,
            output_type="pt",
        ).frames
        return video[0]

    def _text_length(self, request: WanRequest) -> int:
        """Tokens that neither prompt is longer than. The pipeline cuts at this length without a word."""
        tokenizer = self._pipeline.tokenizer
        texts = (request.prompt, request.negative_prompt or "")
        return max(_TEXT_LENGTH, *(len(tokenizer(text, truncation=False, verbose=False).input_ids) for text in texts))

    def _product(self, request: WanRequest, frames: NDArray[np.uint8]) -> Product:
        done: dict[str, Any] = {
            "batch_size": 1,
            "steps": request.steps,
            "num_inference_steps": request.steps,
            "guidance_scale": request.guidance_scale,
            "sample_solver": request.sample_solver,
            "sample_shift": request.sample_shift,
        }
        if request.is_image:
            return Picture(frames[0], request.seed, "png", done)
        return Clip(frames, request.fps, request.seed, done)


def made_frames(frames: int) -> int:
    """The next length of the form 4n + 1: WAN's VAE makes the first frame alone and then four at a time. diffusers would round down."""
    return frames + (1 - frames) % 4
