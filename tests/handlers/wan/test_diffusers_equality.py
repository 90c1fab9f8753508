"""WAN makes what diffusers makes when it is called with the same values, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from PIL import Image

from handlers.wan.decoding import decode_frames
from handlers.wan.request import WanRequest
from handlers.wan.weights.load import WanPipelines, load_wan
from shared.errors import GenerationError
from shared.jobs.recipe import Recipe
from shared.media.images import Pixels
from tests.handlers.conftest import clip, make, pictures, wan

Wan = Recipe[WanRequest]
FLOW: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "num_train_timesteps": 1000}


@pytest.fixture(scope="module")
def direct(tiny_models: Path) -> WanPipelines:
    return load_wan(tiny_models / "wan", torch.device("cpu"), torch.float32)


@pytest.fixture(autouse=True)
def _unguided_by_gradients() -> Any:
    with torch.inference_mode():
        yield


def film(pipeline: Any, scheduler: Any, prompt: str = "a red circle", frames: int = 9, **values: Any) -> Pixels:
    """What diffusers makes, each value given to it as its documentation says."""
    pipeline.scheduler = scheduler
    settings = {"width": 64, "height": 64, "num_frames": frames, "num_inference_steps": 3, "guidance_scale": 6.5, "negative_prompt": ""}
    made = pipeline(prompt, generator=torch.Generator().manual_seed(values.pop("seed", 7)), output_type="np", **settings | values)
    return np.asarray((made.frames[0] * 255).round().astype(np.uint8))


def served(recipe: Wan, request: WanRequest) -> Pixels:
    return np.stack(list(clip(make(recipe, request)).frames))


@pytest.mark.parametrize(
    ("config", "values"),
    [
        ({}, {}),
        ({"seed": 2147483647}, {"seed": 2147483647}),
        ({"steps": 5}, {"num_inference_steps": 5}),
        ({"guidance_scale": 1.0}, {"guidance_scale": 1.0}),
        ({"guidance_scale": 20.0}, {"guidance_scale": 20.0}),
        ({"width": 96, "height": 48}, {"width": 96, "height": 48}),
        ({"frames": 13}, {"frames": 13}),
        ({"negative_prompt": "a blue square"}, {"negative_prompt": "a blue square"}),
    ],
    ids=str,
)
def test_every_value_arrives(wan_recipe: Wan, direct: WanPipelines, config: dict[str, Any], values: dict[str, Any]) -> None:
    expected = film(direct.text, UniPCMultistepScheduler(**FLOW, flow_shift=5.0), **values)
    assert np.array_equal(served(wan_recipe, wan(**config)), expected)


@pytest.mark.parametrize("shift", [1.0, 5.0, 12.0])
@pytest.mark.parametrize("solver", ["unipc", "dpm++", "euler"])
def test_every_solver_is_the_one_of_diffusers(wan_recipe: Wan, direct: WanPipelines, solver: str, shift: float) -> None:
    schedulers = {
        "unipc": UniPCMultistepScheduler(**FLOW, flow_shift=shift),
        "dpm++": DPMSolverMultistepScheduler(**FLOW, flow_shift=shift, algorithm_type="dpmsolver++"),
        "euler": FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift),
    }
    expected = film(direct.text, schedulers[solver])
    assert np.array_equal(served(wan_recipe, wan(sample_solver=solver, sample_shift=shift)), expected)


def test_a_picture_is_a_clip_of_one_frame(wan_recipe: Wan, direct: WanPipelines) -> None:
    (picture,) = pictures(make(wan_recipe, wan(kind="image_fast")))
    assert np.array_equal(picture.pixels, film(direct.text, UniPCMultistepScheduler(**FLOW, flow_shift=5.0), frames=1)[0])


def test_a_clip_with_pictures_is_that_of_vace(wan_recipe: Wan, direct: WanPipelines) -> None:
    first, last, grey = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", (128, 128, 128)))
    keep, paint = Image.new("L", (64, 64), 0), Image.new("L", (64, 64), 255)
    # Seven frames are made as nine, and the seventh is to be the last picture.
    expected = film(
        direct.vace,
        UniPCMultistepScheduler(**FLOW, flow_shift=5.0),
        video=[first, *[grey] * 5, *[last] * 3],
        mask=[keep, *[paint] * 5, *[keep] * 3],
        conditioning_scale=1.0,
    )[:7]
    request = wan(frames=7, first_frame="https://a.example/first.png", last_frame="https://a.example/last.png")
    (product,) = make(wan_recipe, request, references={"config.first_frame": first, "config.last_frame": last})
    assert np.array_equal(np.stack(list(clip([product]).frames)), expected)


def test_a_picture_to_resemble_is_given_to_vace_and_is_not_part_of_the_clip(wan_recipe: Wan, direct: WanPipelines) -> None:
    red = Image.new("RGB", (64, 64), "red")
    expected = film(direct.vace, UniPCMultistepScheduler(**FLOW, flow_shift=5.0), reference_images=[red], conditioning_scale=1.0)
    (product,) = make(wan_recipe, wan(image="https://a.example/red.png"), references={"config.image": red})
    assert np.array_equal(np.stack(list(clip([product]).frames)), expected)


@pytest.mark.parametrize("latent_frames", [1, 2, 5])
def test_frames_that_are_decoded_one_by_one_are_those_of_the_whole_clip(direct: WanPipelines, latent_frames: int) -> None:
    vae, latents = direct.text.vae, torch.randn(1, 16, latent_frames, 8, 6, generator=torch.Generator().manual_seed(0))
    streamed = np.stack(list(decode_frames(vae, latents)))
    mean, deviation = (torch.tensor(vae.config[name]).view(1, 16, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    whole = vae.decode(latents / (1.0 / deviation) + mean, return_dict=False)[0]
    expected = ((whole[0].permute(1, 2, 3, 0) / 2 + 0.5).clamp(0, 1) * 255).round().byte().numpy()
    assert np.array_equal(streamed, expected)


def test_a_decoding_that_is_given_up_leaves_nothing_for_the_next(direct: WanPipelines) -> None:
    vae, latents = direct.text.vae, torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before = list(decode_frames(vae, latents))
    broken_off = decode_frames(vae, -latents)
    next(broken_off)
    broken_off.close()
    assert np.array_equal(list(decode_frames(vae, latents)), before)


def test_latents_that_are_not_finite_end_the_job(direct: WanPipelines) -> None:
    with pytest.raises(GenerationError):
        list(decode_frames(direct.text.vae, torch.full((1, 16, 2, 8, 8), torch.nan)))


def test_a_mask_of_references_is_that_of_diffusers_where_diffusers_has_one(direct: WanPipelines) -> None:
    from diffusers import WanVACEPipeline

    mask, pictures = torch.rand(1, 3, 9, 64, 64).round(), [[torch.zeros(3, 64, 64)] * 2]
    assert torch.equal(direct.vace.prepare_masks(mask, pictures), WanVACEPipeline.prepare_masks(direct.vace, mask, pictures))
    assert direct.vace.prepare_masks(mask[:, :, :1], pictures).shape[2] == 3
