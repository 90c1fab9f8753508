"""What a job asks of a GPU, counted on a fake CUDA device with shallow networks: the host must not wait in a step, and once for an image.

`benchmarks/test_feature_counts.py` and `test_device_report.py` count the published networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.device_counts import DECODE, DENOISE, PREPARE, JobCounts, count_job
from benchmarks.fake_cuda import FakeCuda, can_build_device_guard
from benchmarks.full_size_addons import FullSizeAddons
from benchmarks.sdxl_networks import SHALLOW_REFINER, controlnet, image_encoder, ip_adapter, lora, refiner, shallow
from handlers.sdxl.features.lora import lora_target
from handlers.sdxl.features.scheduler import SCHEDULERS
from handlers.sdxl.recipe import SdxlRecipe
from shared.weights.addons import AddonLibrary
from tests.handlers.conftest import sdxl
from tests.handlers.sdxl.upscalers import esrgan, write_upscaler

pytestmark = pytest.mark.skipif(not can_build_device_guard(), reason="needs a C++ compiler")

IMAGE = Image.effect_noise((64, 64), 90).convert("RGB")

WAITS: dict[str, int] = {"ddim": 6, "ddim_trailing": 6, "ddpm": 14, "pndm": 3, "lcm": 4, "tcd": 4} | dict.fromkeys(
    ("euler_a", "dpm2_a", "dpmpp_2m_sde", "dpmpp_2m_sde_karras"), 1
)
"""The most waits in a step with the schedulers that have any: diffusers' draw noise on the CPU, or look for the step on the device."""


@pytest.fixture(scope="module")
def recipe() -> Iterator[SdxlRecipe]:
    with FakeCuda() as card:
        pipeline = shallow(torch.device("cuda:0"))
        unet = pipeline.unet
        addons = FullSizeAddons(
            {
                ("controlnets", "depth"): lambda: controlnet(unet),
                ("image_encoder", "image_encoder"): lambda: image_encoder(unet),
                ("ip_adapters", "style"): lambda: ip_adapter(unet),
                ("loras", "style"): lambda: lora(lora_target(pipeline)),
                ("refiner", "refiner"): lambda: refiner(unet, {**unet.config, **SHALLOW_REFINER}),
            }
        )
        recipe = SdxlRecipe(pipeline, addons)
        recipe.card = card  # type: ignore[attr-defined]  # for `counted`
        yield recipe


def counted(recipe: Any, prompt: str = "a red circle", **config: Any) -> JobCounts:
    request = sdxl(prompt, **config)
    references = {name: IMAGE for name in request.references}
    counts = count_job(recipe.card, recipe, request, [recipe._pipeline.unet], references)
    assert counts.warnings == ()
    return counts


@pytest.fixture(scope="module")
def two_jobs(recipe: SdxlRecipe) -> tuple[JobCounts, JobCounts]:
    """One with UniPC and the next, of the same prompt, with Euler; both with previews."""
    return counted(recipe, scheduler="unipc", num_images=3, preview=True), counted(recipe, preview=True)


def test_no_step_waits_except_for_its_preview_which_waits_once(two_jobs: tuple[JobCounts, JobCounts]) -> None:
    for job in two_jobs:
        waits = [count for step, count in enumerate(job.waits_by_step, 1) if step != 3]
        assert waits == [0, 0, 0, 0, 1, 0, 0, 1, 0], job.counts.describe_waits()


def test_every_image_waits_once_and_every_batch_for_the_check_of_its_latents(two_jobs: tuple[JobCounts, JobCounts]) -> None:
    assert [(job.outputs, job.counts.waits_in(DECODE)) for job in two_jobs] == [(3, 3 + 1), (1, 1 + 1)], two_jobs[0].counts.describe_waits()


def test_the_map_of_previews_is_fitted_and_a_prompt_encoded_in_the_first_job_only(two_jobs: tuple[JobCounts, JobCounts]) -> None:
    assert [job.waits_by_step[2] for job in two_jobs] == [3, 1], "the first preview of all encodes an image"
    assert two_jobs[0].counts.flops_in(PREPARE) > 0
    assert two_jobs[1].counts.flops_in(PREPARE) == 0


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("scheduler", [name for name in SCHEDULERS if name != "unipc"])
def test_the_steps_of_a_scheduler_wait_as_often_as_is_known(recipe: SdxlRecipe, scheduler: str) -> None:
    job = counted(recipe, scheduler=scheduler)
    assert max(job.waits_by_step) == WAITS.get(scheduler, 0), job.counts.describe_waits()


@pytest.mark.slow
def test_without_guidance_nothing_waits_either_and_a_step_takes_half_the_operations(recipe: SdxlRecipe) -> None:
    guided, unguided = counted(recipe), counted(recipe, guidance_scale=1.0)
    assert sum(unguided.waits_by_step) == 0
    assert unguided.counts.flops_in(DENOISE) == pytest.approx(guided.counts.flops_in(DENOISE) / 2, rel=0.01)


REFERENCE: dict[str, Any] = {"image": "https://a.example/b.png"}
MASK = {"mask": "https://a.example/mask.png"}
CONTROL = {"controls": [{"kind": "depth", "image": "https://a.example/depth.png", "prepared": True}]}
FEATURES: dict[str, dict[str, Any]] = {
    "img2img": REFERENCE | {"denoise_strength": 0.5},
    "inpaint": REFERENCE | MASK,
    "ControlNet": CONTROL,
    "ControlNet with img2img": CONTROL | REFERENCE | {"denoise_strength": 0.5},
    "IP-Adapter": {"references": [{"image": "https://a.example/c.png", "type": "style", "strength": 0.8}]},
    "LoRA": {"loras": [{"name": "style", "scale": 0.7}]},
    "refiner": {"refiner": {"switch_at": 0.5}},
    "DeepCache with ControlNet": CONTROL | {"acceleration": "deepcache"},
}


@pytest.mark.slow
@pytest.mark.parametrize("feature", FEATURES)
def test_no_feature_mixes_devices_or_types_and_only_inpainting_waits_in_its_steps(recipe: SdxlRecipe, feature: str) -> None:
    job = counted(recipe, num_images=3, **FEATURES[feature])
    assert job.outputs == 3
    if feature == "inpaint":  # diffusers noises the reference anew in every step but the last
        assert max(job.waits_by_step) == 4, job.counts.describe_waits()
        return
    waiting = [count for count in job.waits_by_step if count]
    assert len(waiting) <= (1 if feature == "refiner" else 0), job.counts.describe_waits()  # the refiner's pass has a start of its own


@pytest.mark.slow
def test_merging_a_lora_does_not_wait_for_its_tensors(recipe: SdxlRecipe) -> None:
    counted(recipe, **FEATURES["LoRA"])  # encodes the prompt
    merged, plain = counted(recipe, **FEATURES["LoRA"]), counted(recipe)
    assert merged.counts.waits_in(PREPARE) == plain.counts.waits_in(PREPARE), merged.counts.describe_waits()
    assert merged.counts.copied["host to device"] > plain.counts.copied["host to device"]


@pytest.mark.slow
def test_an_upscaled_image_waits_twice_for_each_tile(recipe: SdxlRecipe, tmp_path: Path) -> None:
    """To send the tile and to read its result."""
    write_upscaler(tmp_path / "upscalers/two.safetensors", esrgan(2, blocks=1))
    upscaling = SdxlRecipe(recipe._pipeline, AddonLibrary(tmp_path))
    upscaling.card = recipe.card  # type: ignore[attr-defined]  # for `counted`
    counted(upscaling, upscale={"factor": 2})
    plain, upscaled = counted(upscaling), counted(upscaling, upscale={"factor": 2})
    assert upscaled.counts.waits_in(DECODE) - plain.counts.waits_in(DECODE) == 2, upscaled.counts.describe_waits()
