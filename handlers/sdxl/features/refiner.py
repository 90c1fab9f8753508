"""The refiner: another UNet, which makes the last steps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from handlers.sdxl.features.img2img import effective_steps
from handlers.sdxl.progress import Steps
from handlers.sdxl.prompts import Embeddings
from handlers.sdxl.request import SdxlRequest
from shared.errors import Problem, ValidationError
from shared.models.device import size_of
from shared.models.load import load_network
from shared.models.pipelines import call_pipeline
from shared.settings import SettingsError
from shared.weights.addons import Shelf

if TYPE_CHECKING:
    from handlers.sdxl.pipeline import Stage

# diffusers takes no switch at 0: less than one step of any schedule.
_NEARLY_0 = 1e-6


def accept(request: SdxlRequest, shelf: Shelf) -> None:
    """Refuses a refiner where there is none, or ControlNets, which were made for another UNet, are to guide the picture.

    Raises:
        ModelUnavailable: There is none on the shelf.
        ValidationError: There are controls, too.
    """
    if request.refiner is not None:
        shelf.find("refiner", "refiner")
        if request.controls:
            raise ValidationError([Problem("config.refiner", "both", "left out where config.controls guide the picture")])


@dataclass(frozen=True)
class Network:
    """The refiner as it is kept.

    Attributes:
        unet: Its only weights. Text encoder, tokenizer and VAE are those of SDXL.
        scored: Whether it is told how beautiful a picture is to be.
    """

    unet: Any
    scored: bool


@dataclass(frozen=True)
class Refinement:
    """The last steps of a job.

    Attributes:
        pipeline: Image → image with the refiner's UNet.
        start: The share of its schedule that others have made.
        steps: Of its whole schedule.
        count: How many it makes.
        crowded: Whether it leaves the GPU after each call, because there is no room for it beside a job.
    """

    pipeline: Any
    start: float
    steps: int
    count: int
    crowded: bool = False

    def __call__(
        self, latents: Tensor, embeddings: Embeddings, noise: Sequence[torch.Generator], request: SdxlRequest, steps: Steps
    ) -> Tensor:
        """Finishes pictures.

        Args:
            latents: Pictures × 4 × height/8 × width/8, with the noise of the step where it takes over.
            embeddings: Of the prompts, as the first UNet had them.
            noise: A generator for each picture, as the first part left them.
            request: What to make.
            steps: Whom to report to.

        Returns:
            Of the same shape.
        """
        unet = self.pipeline.unet
        unet.to(latents.device)
        try:
            finished: Tensor = call_pipeline(
                self.pipeline,
                steps.refine,
                steps.look,
                **embeddings.for_width(unet.config.cross_attention_dim),
                image=latents,
                denoising_start=self.start,
                num_inference_steps=self.steps,
                guidance_scale=request.guidance_scale,
                guidance_rescale=request.guidance_rescale,
                num_images_per_prompt=len(noise),
                generator=list(noise),
                output_type="latent",
            ).images
        finally:
            if self.crowded:
                unet.to("cpu")
        return finished


@contextmanager
def attached(stage: Stage, request: SdxlRequest, references: Mapping[str, Image.Image], shelf: Shelf) -> Iterator[None]:
    """Has the refiner make the steps after `switch_at`, and the pipeline end there.

    A switch at 1 leaves it nothing. Where image→image begins after the switch, it makes all the steps that there are.

    Raises:
        ModelUnavailable: It cannot be used.
    """
    if request.refiner is not None:
        steps = request.refiner.steps or request.steps
        stage.notes["refiner"] = {"switch_at": request.refiner.switch_at, "steps": steps}
        stage.notes |= {"steps": request.steps, "num_inference_steps": request.steps} | stage.notes
        if request.refiner.switch_at < 1:
            start = switch(stage, request, request.refiner.switch_at)
            stage.refine = _prepare(stage, request, shelf, start, steps)
            stage.arguments["denoising_end"] = start
    yield


def switch(stage: Stage, request: SdxlRequest, wanted: float) -> float:
    """The share of the schedule after which the refiner takes over: what was asked for, or where image→image begins, if that is later."""
    start = max(wanted, _NEARLY_0)
    if stage.method != "img2img":
        return start
    scheduler: Any = stage.pipeline.scheduler
    trained: int = scheduler.config.num_train_timesteps
    first = float(_timesteps(scheduler, request.steps)[(request.steps - effective_steps(request)) * scheduler.order])
    return max(start, 1 - (math.floor(first) + 1) / trained)


def _timesteps(scheduler: Any, steps: int) -> Tensor:
    fresh = type(scheduler).from_config(scheduler.config)
    fresh.set_timesteps(steps)
    timesteps: Tensor = fresh.timesteps
    return timesteps


def _prepare(stage: Stage, request: SdxlRequest, shelf: Shelf, start: float, steps: int) -> Refinement:
    from diffusers import StableDiffusionXLImg2ImgPipeline

    base = stage.pipeline
    network = shelf.load("refiner", "refiner", lambda folder: _load(folder, base), lambda loaded: size_of(loaded.unet))
    names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    parts = {name: getattr(base, name) for name in names} | {"unet": network.unet}
    pipeline = StableDiffusionXLImg2ImgPipeline(**parts, requires_aesthetics_score=network.scored, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    trained = base.scheduler.config.num_train_timesteps
    count = int((_timesteps(base.scheduler, steps) < round(trained - start * trained)).sum())
    if base.scheduler.order == 2 and count % 2 == 0:
        count += 1  # as diffusers does, so that no step is cut in its middle
    crowded = _is_crowded(stage, request)
    if crowded:
        network.unet.to("cpu")  # until its turn comes
    return Refinement(pipeline, start, steps, count, crowded)


def _load(folder: Path, base: Any) -> Network:
    from diffusers import UNet2DConditionModel

    unet = load_network(UNet2DConditionModel, folder / "unet", name="refiner/unet", device=base.unet.device, dtype=base.unet.dtype)
    second = base.text_encoder_2.config.hidden_size
    if unet.config.cross_attention_dim not in (second, second + base.text_encoder.config.hidden_size):
        raise SettingsError("The refiner was not made for SDXL's text encoders.")
    try:
        scored = bool(json.loads((folder / "model_index.json").read_text(encoding="utf-8")).get("requires_aesthetics_score", False))
    except (OSError, ValueError) as error:
        raise SettingsError(f"The refiner's model_index.json cannot be read: {type(error).__name__}.") from error
    return Network(unet, scored)


def _is_crowded(stage: Stage, request: SdxlRequest) -> bool:
    """Whether one picture has no room while the refiner stays on the GPU."""
    free = stage.free()
    return free is not None and stage.need(request).alone > free
