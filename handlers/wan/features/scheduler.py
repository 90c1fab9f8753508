"""The contract's three solvers, as diffusers has them for flow matching."""

from __future__ import annotations

from typing import Any


def make_solver(name: str, shift: float) -> Any:
    """A fresh scheduler of the kind that WAN was trained for.

    Only solvers whose result depends on the seed alone: the pipeline hands them no generator, so those that draw noise of their own
    would make another clip each time.

    Args:
        name: `unipc`, `dpm++` or `euler`.
        shift: Moves the steps towards the noisy end, 1 … 12; Wan 2.1's own value is 5.
    """
    from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "num_train_timesteps": 1000, "flow_shift": shift}
    match name:
        case "unipc":
            return UniPCMultistepScheduler(**flow)
        case "dpm++":
            return DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", **flow)
        case "euler":
            return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
        case _:
            raise ValueError(f"there is no solver {name}")
