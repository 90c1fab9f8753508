"""UniPC with its noise levels on the device equals diffusers', bit for bit, and never waits in a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from benchmarks.fake_cuda import FakeCuda, can_build_device_guard
from shared.models.unipc import ResidentUniPC

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0}


def denoised(scheduler: Any, dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """The result of ten steps with noise for predictions."""
    generator = torch.Generator().manual_seed(3)
    scheduler.set_timesteps(10, device=device)
    scheduler.set_begin_index(0)
    sample = torch.randn(2, 4, 8, 8, generator=generator).to(device, dtype)
    for timestep in scheduler.timesteps:
        sample = scheduler.step(torch.randn(2, 4, 8, 8, generator=generator).to(device, dtype), timestep, sample).prev_sample
    return sample


HALF = [(config, dtype) for config in ({}, FLOW) for dtype in (torch.float16, torch.bfloat16)]


@pytest.mark.parametrize(("config", "dtype"), [*HALF, ({}, torch.float32), (FLOW, torch.float32), ({"solver_order": 3}, torch.float32)])
def test_it_equals_diffusers_bit_for_bit(config: dict[str, Any], dtype: torch.dtype) -> None:
    assert torch.equal(denoised(ResidentUniPC(**config), dtype), denoised(UniPCMultistepScheduler(**config), dtype))


def test_it_can_be_used_again_and_made_from_the_configuration_of_another() -> None:
    scheduler = ResidentUniPC.from_config(UniPCMultistepScheduler(**FLOW).config)
    assert torch.equal(denoised(scheduler, torch.float32), denoised(scheduler, torch.float32))


@pytest.mark.skipif(not can_build_device_guard(), reason="needs a C++ compiler")
def test_its_steps_copy_nothing_to_the_device_and_those_of_diffusers_do() -> None:
    def copies(scheduler: Any) -> int:
        with FakeCuda() as card, torch.inference_mode():
            card.reset("steps")
            denoised(scheduler, torch.float32, "cuda:0")
            return sum(count for (_, wait), count in card.counts.waits.items() if "unipc" in wait.library and wait.tensor == "float32 1")

    assert copies(ResidentUniPC(**FLOW)) == 0
    assert copies(UniPCMultistepScheduler(**FLOW)) > 40
