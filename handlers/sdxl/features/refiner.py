"""The refiner: a second UNet that runs the last steps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from handlers.sdxl.features.img2img import effective_steps
from handlers.sdxl.job_pipeline import JobPipeline
from handlers.sdxl.memory import MemoryEstimate
from handlers.sdxl.refiner_pass import RefinerPass
from handlers.sdxl.request import SdxlRequest
from shared.errors import Conflict, ValidationError
from shared.models.device import memory_footprint
from shared.models.load import load_network
from shared.weights.addons import AddonLibrary
from shared.weights.errors import WeightsError

# diffusers rejects a switch at 0; this is less than one step of any schedule.
_EPSILON = 1e-6


def check(request: SdxlRequest, addons: AddonLibrary) -> None:
    """Refuses a refiner that is not installed, or a combination with ControlNets, which were made for another UNet.

    Raises:
        ModelUnavailable: No refiner is installed.
        ValidationError: The request has ControlNets.
    """
    addons.find("refiner", "refiner")
    if request.controls:
        raise ValidationError([Conflict.between("config.refiner", "config.controls")])


@dataclass(frozen=True)
class RefinerNetwork:
    """The refiner as the add-on cache keeps it.

    Attributes:
        unet: Its only weights. Text encoder, tokenizer and VAE are SDXL's.
        requires_aesthetics_score: Whether it is conditioned on an aesthetics score.
    """

    unet: Any
    requires_aesthetics_score: bool


@contextmanager
def apply(job: JobPipeline, request: SdxlRequest) -> Iterator[None]:
    """Ends the base pass at `switch_at` and adds the refiner pass.

    With `switch_at` 1 there is no refiner pass. Img2img that starts after the switch is denoised by the refiner alone.

    Raises:
        ModelUnavailable: The refiner is unusable.
    """
    assert request.refiner is not None
    schedule_steps = request.refiner.steps or request.steps
    job.metadata["refiner"] = {"switch_at": request.refiner.switch_at, "steps": schedule_steps}
    job.metadata |= {"steps": request.steps, "num_inference_steps": request.steps} | job.metadata
    if request.refiner.switch_at < 1:
        start = switch_point(job, request, request.refiner.switch_at)
        job.refiner = _prepare(job, request, start, schedule_steps)
        job.arguments["denoising_end"] = start
    yield


def switch_point(job: JobPipeline, request: SdxlRequest, switch_at: float) -> float:
    """Returns the fraction of the schedule where the refiner takes over: `switch_at`, or the start of img2img if that is later."""
    start = max(switch_at, _EPSILON)
    if request.reference_method != "img2img":
        return start
    scheduler: Any = job.pipeline.scheduler
    train_timesteps: int = scheduler.config.num_train_timesteps
    first = float(_timesteps(scheduler, request.steps)[(request.steps - effective_steps(request)) * scheduler.order])
    return max(start, 1 - (math.floor(first) + 1) / train_timesteps)


def _timesteps(scheduler: Any, steps: int) -> Tensor:
    fresh = type(scheduler).from_config(scheduler.config)
    fresh.set_timesteps(steps)
    timesteps: Tensor = fresh.timesteps
    return timesteps


def _prepare(job: JobPipeline, request: SdxlRequest, start: float, schedule_steps: int) -> RefinerPass:
    from diffusers import StableDiffusionXLImg2ImgPipeline

    base = job.pipeline
    network = job.addons.load("refiner", "refiner", lambda folder: _load(folder, base), lambda loaded: memory_footprint(loaded.unet))
    names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    parts = {name: getattr(base, name) for name in names} | {"unet": network.unet}
    pipeline = StableDiffusionXLImg2ImgPipeline(**parts, requires_aesthetics_score=network.requires_aesthetics_score, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    train_timesteps = base.scheduler.config.num_train_timesteps
    steps = int((_timesteps(base.scheduler, schedule_steps) < round(train_timesteps - start * train_timesteps)).sum())
    if base.scheduler.order == 2 and steps % 2 == 0:
        steps += 1  # as diffusers does, to avoid splitting a second-order step
    offload = _exceeds_memory(job, request)
    if offload:
        network.unet.to("cpu")  # until its pass
    return RefinerPass(pipeline, start, schedule_steps, steps, offload)


def _load(folder: Path, base: Any) -> RefinerNetwork:
    from diffusers import UNet2DConditionModel

    unet = load_network(UNet2DConditionModel, folder / "unet", name="refiner/unet", device=base.unet.device, dtype=base.unet.dtype)
    second = base.text_encoder_2.config.hidden_size
    if unet.config.cross_attention_dim not in (second, second + base.text_encoder.config.hidden_size):
        raise WeightsError("refiner", "it was not made for SDXL's text encoders")
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        return RefinerNetwork(unet, bool(index.get("requires_aesthetics_score", False)))
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError("refiner", f"its model_index.json cannot be read ({type(error).__name__})") from error


def _exceeds_memory(job: JobPipeline, request: SdxlRequest) -> bool:
    """Whether a single image does not fit while the refiner stays on the GPU."""
    free = job.free_memory()
    return free is not None and MemoryEstimate.of(request, job.pipeline).single_image > free
