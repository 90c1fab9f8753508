"""The contract's samplers, as diffusers has them, put on the pipeline for one job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image

from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.scheduler_names import Scheduler
from shared.models.pipelines import scheduled_by
from shared.weights.addons import Shelf

if TYPE_CHECKING:
    from handlers.sdxl.pipeline import Stage


@dataclass(frozen=True)
class Sampler:
    """One name's meaning.

    Attributes:
        scheduler: The class in diffusers.
        options: What of the checkpoint's own configuration is replaced.
    """

    scheduler: str
    options: Mapping[str, Any] = field(default_factory=dict)


_PLAIN = {"use_karras_sigmas": False}
_KARRAS = {"use_karras_sigmas": True}  # arXiv 2206.00364, equation 5
_2M = {"solver_order": 2, "algorithm_type": "dpmsolver++"}
_2M_SDE = {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}

SAMPLERS: Mapping[Scheduler, Sampler] = {
    "ddim": Sampler("DDIMScheduler", {"set_alpha_to_one": False, "clip_sample": False}),
    "ddpm": Sampler("DDPMScheduler", {"clip_sample": False}),
    "euler": Sampler("EulerDiscreteScheduler", _PLAIN),
    "euler_karras": Sampler("EulerDiscreteScheduler", _KARRAS),
    "euler_a": Sampler("EulerAncestralDiscreteScheduler"),
    "heun": Sampler("HeunDiscreteScheduler", _PLAIN),
    "dpm2": Sampler("KDPM2DiscreteScheduler", _PLAIN),
    "dpm2_a": Sampler("KDPM2AncestralDiscreteScheduler", _PLAIN),
    "dpmpp_2m": Sampler("DPMSolverMultistepScheduler", _2M | _PLAIN),
    "dpmpp_2m_karras": Sampler("DPMSolverMultistepScheduler", _2M | _KARRAS),
    "dpmpp_2m_sde": Sampler("DPMSolverMultistepScheduler", _2M_SDE | _PLAIN),
    "dpmpp_2m_sde_karras": Sampler("DPMSolverMultistepScheduler", _2M_SDE | _KARRAS),
    "dpmpp_3m": Sampler("DPMSolverMultistepScheduler", {"solver_order": 3, "algorithm_type": "dpmsolver++"} | _PLAIN),
    # The single-step solver of the same order: the true one needs noise of its own (torchsde), which no seed would reach.
    "dpmpp_sde": Sampler("DPMSolverSinglestepScheduler", {"algorithm_type": "dpmsolver++"} | _PLAIN),
    "unipc": Sampler("UniPCMultistepScheduler", _PLAIN),
    "deis": Sampler("DEISMultistepScheduler", _PLAIN),
    "pndm": Sampler("PNDMScheduler", {"skip_prk_steps": True}),
    "lcm": Sampler("LCMScheduler"),
    "tcd": Sampler("TCDScheduler"),
}
"""Each name of the contract. How time is spaced, and what the model predicts, stays the checkpoint's."""


def accept(request: SdxlRequest, shelf: Shelf) -> None:
    """Every worker has all of them."""


@contextmanager
def attached(stage: Stage, request: SdxlRequest, references: Mapping[str, Image.Image], shelf: Shelf) -> Iterator[None]:
    """Has the request's sampler denoise, while the body runs."""
    if request.scheduler is None:
        yield
        return
    stage.notes["scheduler"] = request.scheduler
    with scheduled_by(stage.pipeline, make_scheduler(request.scheduler, stage.pipeline.scheduler.config)):
        yield


def make_scheduler(name: Scheduler, checkpoint: Mapping[str, Any]) -> Any:
    """A fresh scheduler.

    Args:
        name: The contract's.
        checkpoint: The configuration of the checkpoint's own scheduler. A configuration that went through another scheduler would bring
            that one's choices with it.
    """
    import diffusers

    sampler = SAMPLERS[name]
    return getattr(diffusers, sampler.scheduler).from_config(checkpoint, **sampler.options)
