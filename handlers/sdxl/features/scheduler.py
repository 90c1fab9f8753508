"""The contract's schedulers, as diffusers implements them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from handlers.sdxl.job_pipeline import JobPipeline
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.scheduler_names import SchedulerName
from handlers.sdxl.weights.noise_schedule import schedule_problem
from shared.errors import ModelUnavailable
from shared.models.pipelines import with_scheduler
from shared.weights.addons import AddonLibrary


@dataclass(frozen=True)
class SchedulerConfig:
    """The diffusers scheduler behind a name.

    Attributes:
        class_name: The class in diffusers.
        overrides: Values that replace those of the checkpoint's scheduler configuration.
    """

    class_name: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


_PLAIN = {"use_karras_sigmas": False}
_KARRAS = {"use_karras_sigmas": True}  # arXiv 2206.00364, equation 5
_TRAILING = {"timestep_spacing": "trailing"}  # begins at the last timestep (arXiv 2305.08891, table 2), as distilled models were trained
_2M = {"solver_order": 2, "algorithm_type": "dpmsolver++"}
_2M_SDE = {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}

SCHEDULERS: Mapping[SchedulerName, SchedulerConfig] = {
    "ddim": SchedulerConfig("DDIMScheduler", {"set_alpha_to_one": False, "clip_sample": False}),
    "ddpm": SchedulerConfig("DDPMScheduler", {"clip_sample": False}),
    "euler": SchedulerConfig("EulerDiscreteScheduler", _PLAIN),
    "euler_karras": SchedulerConfig("EulerDiscreteScheduler", _KARRAS),
    "euler_a": SchedulerConfig("EulerAncestralDiscreteScheduler"),
    "heun": SchedulerConfig("HeunDiscreteScheduler", _PLAIN),
    "dpm2": SchedulerConfig("KDPM2DiscreteScheduler", _PLAIN),
    "dpm2_a": SchedulerConfig("KDPM2AncestralDiscreteScheduler", _PLAIN),
    "dpmpp_2m": SchedulerConfig("DPMSolverMultistepScheduler", _2M | _PLAIN),
    "dpmpp_2m_karras": SchedulerConfig("DPMSolverMultistepScheduler", _2M | _KARRAS),
    "dpmpp_2m_sde": SchedulerConfig("DPMSolverMultistepScheduler", _2M_SDE | _PLAIN),
    "dpmpp_2m_sde_karras": SchedulerConfig("DPMSolverMultistepScheduler", _2M_SDE | _KARRAS),
    "dpmpp_3m": SchedulerConfig("DPMSolverMultistepScheduler", {"solver_order": 3, "algorithm_type": "dpmsolver++"} | _PLAIN),
    # The single-step scheduler of the same order: the SDE one draws noise of its own (torchsde) that the seed does not control.
    "dpmpp_sde": SchedulerConfig("DPMSolverSinglestepScheduler", {"algorithm_type": "dpmsolver++"} | _PLAIN),
    "unipc": SchedulerConfig("UniPCMultistepScheduler", _PLAIN),
    "deis": SchedulerConfig("DEISMultistepScheduler", _PLAIN),
    "pndm": SchedulerConfig("PNDMScheduler", {"skip_prk_steps": True}),
    "lcm": SchedulerConfig("LCMScheduler"),
    "tcd": SchedulerConfig("TCDScheduler"),
    "ddim_trailing": SchedulerConfig("DDIMScheduler", {"set_alpha_to_one": False, "clip_sample": False} | _TRAILING),
    "euler_trailing": SchedulerConfig("EulerDiscreteScheduler", _PLAIN | _TRAILING),
}
"""By the contract's names. Prediction type and, but for the trailing ones, timestep spacing remain the checkpoint's."""


def check(request: SdxlRequest, addons: AddonLibrary) -> None:
    """Accepts every request: all schedulers are part of diffusers."""


@contextmanager
def apply(job: JobPipeline, request: SdxlRequest) -> Iterator[None]:
    """Replaces the pipeline's scheduler while the body runs."""
    assert request.scheduler is not None
    job.metadata["scheduler"] = request.scheduler
    with with_scheduler(job.pipeline, make_scheduler(request.scheduler, job.pipeline.scheduler.config)):
        yield


def check_schedule(name: SchedulerName, checkpoint: Mapping[str, Any]) -> None:
    """Refuses a scheduler that cannot follow the checkpoint's noise schedule or prediction type, and would draw noise.

    Args:
        name: The contract's.
        checkpoint: The configuration of the checkpoint's own scheduler.

    Raises:
        ModelUnavailable: Names the schedulers that can.
    """
    if problem := _problem(name, checkpoint):
        usable = ", ".join(each for each in SCHEDULERS if not _problem(each, checkpoint))
        raise ModelUnavailable(
            f"Scheduler {name!r} cannot sample this worker's model, which was trained with {problem}. Available: {usable}."
        )


def _problem(name: SchedulerName, checkpoint: Mapping[str, Any]) -> str | None:
    import diffusers

    return schedule_problem(getattr(diffusers, SCHEDULERS[name].class_name), checkpoint)


def make_scheduler(name: SchedulerName, checkpoint: Mapping[str, Any]) -> Any:
    """Makes a new scheduler.

    Args:
        name: The contract's.
        checkpoint: The configuration of the checkpoint's own scheduler; one that passed through another scheduler would carry its settings.
    """
    import diffusers

    from shared.models.unipc import ResidentUniPC

    config = SCHEDULERS[name]
    kind: Any = ResidentUniPC if name == "unipc" else getattr(diffusers, config.class_name)
    return kind.from_config(checkpoint, **config.overrides)
