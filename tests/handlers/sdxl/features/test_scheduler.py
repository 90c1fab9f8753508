"""Every scheduler of the contract, compared with diffusers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import diffusers
import numpy as np
import pytest
import torch

from handlers.sdxl.features.scheduler import SCHEDULERS
from handlers.sdxl.handler import load
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.scheduler_names import MIN_STEPS, SchedulerName
from handlers.sdxl.weights.load import load_sdxl
from shared.errors import Cancelled
from shared.jobs.recipe import Recipe
from shared.media.images import Pixels
from shared.settings import Settings
from tests.handlers.conftest import RecordedRun, generate, image_outputs, sdxl

Sdxl = Recipe[SdxlRequest]
Drawn = Callable[[str], tuple[Pixels, list[tuple[int, int]]]]
# diffusers' documentation maps the names of other interfaces to its schedulers.
EXPECTED: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"set_alpha_to_one": False, "clip_sample": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2m_sde_karras": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
    "dpmpp_3m": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "dpmpp_sde": ("DPMSolverSinglestepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
    "ddim_trailing": ("DDIMScheduler", {"set_alpha_to_one": False, "clip_sample": False, "timestep_spacing": "trailing"}),
    "euler_trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
}
# The same method in other variables: the images may round to the same bytes. TCD without noise is DDIM; ten of its steps are evenly spaced.
SAME_METHOD = {("ddim", "euler"), ("ddpm", "euler_a"), ("ddim_trailing", "euler_trailing"), ("tcd", "ddim_trailing")}
SECOND_ORDER = {"heun", "dpm2", "dpm2_a"}  # second-order: two evaluations in each step but the last


@pytest.fixture(scope="module")
def direct(tiny_models: Path) -> Any:
    return load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def base(direct: Any) -> Any:
    """The checkpoint's own scheduler."""
    return direct.scheduler


@pytest.fixture(scope="module")
def recipe(tiny_models: Path) -> Sdxl:
    return load(Settings(models_dir=tiny_models, device="cpu"))


@pytest.fixture(scope="module")
def drawn(recipe: Sdxl) -> Drawn:
    """Returns the image of a scheduler and the reported steps, cached."""

    @cache
    def draw_once(name: str) -> tuple[Pixels, list[tuple[int, int]]]:
        recorded = RecordedRun()
        (pixels,) = draw(recipe, name, recorded)
        return pixels, recorded.steps

    return draw_once


def draw(recipe: Sdxl, scheduler: str | None, recorded: RecordedRun | None = None, **config: Any) -> list[Pixels]:
    request = sdxl(negative="", **({"scheduler": scheduler} if scheduler else {}), **config)
    return [image.pixels for image in image_outputs(generate(recipe, request, recorded))]


def plain(direct: Any, scheduler: Any, *seeds: int) -> list[Pixels]:
    """The images of diffusers, decoded one by one: decoding a batch differs in the last bit."""
    direct.scheduler = scheduler
    direct.vae.enable_slicing()
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    size = {"width": 64, "height": 64, "num_inference_steps": 10, "guidance_scale": 6.0, "num_images_per_prompt": len(seeds)}
    with torch.inference_mode():
        made = direct("a red circle", negative_prompt="", generator=noise, output_type="np", **size).images
    return [(image * 255).round().astype(np.uint8) for image in made]


def test_every_name_of_the_contract_has_a_scheduler() -> None:
    assert set(SCHEDULERS) == set(get_args(SchedulerName)) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_each_scheduler_equals_diffusers_bit_for_bit(drawn: Drawn, direct: Any, base: Any, name: str) -> None:
    kind, options = EXPECTED[name]
    (expected,) = plain(direct, getattr(diffusers, kind).from_config(base.config, **options), 7)
    assert np.array_equal(drawn(name)[0], expected)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_the_checkpoints_own_scheduler_is_the_default_bit_for_bit(recipe: Sdxl, direct: Any, base: Any, count: int) -> None:
    expected = plain(direct, type(base).from_config(base.config), *range(7, 7 + count))
    assert all(np.array_equal(one, other) for one, other in zip(draw(recipe, None, num_images=count), expected, strict=True))


def test_schedulers_yield_different_images(drawn: Drawn) -> None:
    alike = {(one, other) for one, other in combinations(EXPECTED, 2) if np.array_equal(drawn(one)[0], drawn(other)[0])}
    assert alike <= SAME_METHOD


@pytest.mark.parametrize("name", EXPECTED)
def test_progress_reports_the_steps_that_a_scheduler_really_runs(drawn: Drawn, name: str) -> None:
    made = 19 if name in SECOND_ORDER else 11 if name == "pndm" else 10
    assert drawn(name)[1] == [(step, made) for step in range(1, made + 1)]


@pytest.mark.parametrize("name", MIN_STEPS)
def test_schedulers_of_distilled_models_accept_a_single_step(recipe: Sdxl, name: str) -> None:
    recorded = RecordedRun()
    draw(recipe, name, recorded, steps=1)
    assert recorded.steps == [(1, 1)]


@pytest.mark.parametrize("name", ["dpmpp_2m_sde_karras", "pndm", "euler_a"])
def test_a_scheduler_does_not_affect_later_jobs(recipe: Sdxl, name: str) -> None:
    before = draw(recipe, None)
    draw(recipe, name)
    with pytest.raises(Cancelled):
        draw(recipe, name, RecordedRun(stop_at=2))
    assert np.array_equal(draw(recipe, None), before)


def test_metadata_names_the_scheduler(recipe: Sdxl) -> None:
    (image,) = image_outputs(generate(recipe, sdxl(scheduler="heun")))
    assert image.metadata["scheduler"] == "heun"
    assert image.metadata["steps"] == 10
