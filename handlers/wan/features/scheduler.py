"""The contract's schedulers, as diffusers implements them for flow matching."""

from __future__ import annotations

from typing import Any


def make_scheduler(name: str, shift: float) -> Any:
    """Creates a scheduler.

    Only schedulers whose result depends on the seed alone are offered: the pipeline passes them no generator, so those that draw noise of
    their own would give another clip each time.

    Args:
        name: `unipc`, `dpm++` or `euler`.
        shift: Shifts the timesteps towards the noisy end, 1 … 12; Wan 2.1's own value is 5.
    """
    from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

    from shared.models.unipc import ResidentUniPC

    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "num_train_timesteps": 1000, "flow_shift": shift}
    match name:
        case "unipc":
            return ResidentUniPC(**flow)
        case "dpm++":
            return DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", **flow)
        case "euler":
            return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
        case _:
            raise ValueError(f"unknown scheduler {name}")
