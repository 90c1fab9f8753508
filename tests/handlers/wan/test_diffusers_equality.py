"""WAN's output equals that of diffusers called with the same values, bit for bit."""

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
from tests.handlers.conftest import clip, generate, image_outputs, wan

Wan = Recipe[WanRequest]
FLOW: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "num_train_timesteps": 1000}


def unipc() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(**FLOW, flow_shift=5.0)


@pytest.fixture(scope="module")
def pipelines(tiny_models: Path) -> WanPipelines:
    return load_wan(tiny_models / "wan", torch.device("cpu"), torch.float32)


@pytest.fixture(autouse=True)
def _inference_mode() -> Any:
    with torch.inference_mode():
        yield


def diffusers_frames(pipeline: Any, scheduler: Any, prompt: str = "a red circle", frames: int = 9, **values: Any) -> Pixels:
    """Generates with diffusers directly, passing each value as documented."""
    pipeline.scheduler = scheduler
    settings = {"width": 64, "height": 64, "num_frames": frames, "num_inference_steps": 3, "guidance_scale": 6.5, "negative_prompt": ""}
    made = pipeline(prompt, generator=torch.Generator().manual_seed(values.pop("seed", 7)), output_type="np", **settings | values)
    return np.asarray((made.frames[0] * 255).round().astype(np.uint8))


def handler_frames(recipe: Wan, request: WanRequest) -> Pixels:
    return np.stack(list(clip(generate(recipe, request)).frames))


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
def test_every_setting_is_passed_to_the_pipeline(
    wan_recipe: Wan, pipelines: WanPipelines, config: dict[str, Any], values: dict[str, Any]
) -> None:
    expected = diffusers_frames(pipelines.text_to_video, unipc(), **values)
    assert np.array_equal(handler_frames(wan_recipe, wan(**config)), expected)


@pytest.mark.parametrize("shift", [1.0, 5.0, 12.0])
@pytest.mark.parametrize("name", ["unipc", "dpm++", "euler"])
def test_every_scheduler_equals_the_one_of_diffusers(wan_recipe: Wan, pipelines: WanPipelines, name: str, shift: float) -> None:
    schedulers = {
        "unipc": UniPCMultistepScheduler(**FLOW, flow_shift=shift),
        "dpm++": DPMSolverMultistepScheduler(**FLOW, flow_shift=shift, algorithm_type="dpmsolver++"),
        "euler": FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift),
    }
    expected = diffusers_frames(pipelines.text_to_video, schedulers[name])
    assert np.array_equal(handler_frames(wan_recipe, wan(sample_solver=name, sample_shift=shift)), expected)


def test_an_image_equals_a_clip_of_one_frame(wan_recipe: Wan, pipelines: WanPipelines) -> None:
    (image,) = image_outputs(generate(wan_recipe, wan(kind="image_fast")))
    assert np.array_equal(image.pixels, diffusers_frames(pipelines.text_to_video, unipc(), frames=1)[0])


def test_a_clip_with_references_equals_the_one_of_vace(wan_recipe: Wan, pipelines: WanPipelines) -> None:
    first, last, grey = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", (128, 128, 128)))
    keep, generate_ = Image.new("L", (64, 64), 0), Image.new("L", (64, 64), 255)
    # Seven frames are padded to nine, and the seventh is the last image.
    expected = diffusers_frames(
        pipelines.vace,
        unipc(),
        video=[first, *[grey] * 5, *[last] * 3],
        mask=[keep, *[generate_] * 5, *[keep] * 3],
        conditioning_scale=1.0,
    )[:7]
    request = wan(frames=7, first_frame="https://a.example/first.png", last_frame="https://a.example/last.png")
    (output,) = generate(wan_recipe, request, references={"config.first_frame": first, "config.last_frame": last})
    assert np.array_equal(np.stack(list(clip([output]).frames)), expected)


def test_a_single_reference_is_passed_to_vace_and_is_not_part_of_the_clip(wan_recipe: Wan, pipelines: WanPipelines) -> None:
    red = Image.new("RGB", (64, 64), "red")
    expected = diffusers_frames(pipelines.vace, unipc(), reference_images=[red], conditioning_scale=1.0)
    (output,) = generate(wan_recipe, wan(image="https://a.example/red.png"), references={"config.image": red})
    assert np.array_equal(np.stack(list(clip([output]).frames)), expected)


@pytest.mark.parametrize("latent_frames", [1, 2, 5])
def test_frames_decoded_one_by_one_equal_those_of_the_whole_clip(pipelines: WanPipelines, latent_frames: int) -> None:
    vae, latents = pipelines.text_to_video.vae, torch.randn(1, 16, latent_frames, 8, 6, generator=torch.Generator().manual_seed(0))
    streamed = np.stack(list(decode_frames(vae, latents)))
    mean, deviation = (torch.tensor(vae.config[name]).view(1, 16, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    whole = vae.decode(latents / (1.0 / deviation) + mean, return_dict=False)[0]
    expected = ((whole[0].permute(1, 2, 3, 0) / 2 + 0.5).clamp(0, 1) * 255).round().byte().numpy()
    assert np.array_equal(streamed, expected)


def test_an_abandoned_decoding_does_not_affect_the_next(pipelines: WanPipelines) -> None:
    vae, latents = pipelines.text_to_video.vae, torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before = list(decode_frames(vae, latents))
    abandoned = decode_frames(vae, -latents)
    next(abandoned)
    abandoned.close()
    assert np.array_equal(list(decode_frames(vae, latents)), before)


def test_latents_that_are_not_finite_fail_the_job(pipelines: WanPipelines) -> None:
    with pytest.raises(GenerationError):
        list(decode_frames(pipelines.text_to_video.vae, torch.full((1, 16, 2, 8, 8), torch.nan)))


def test_the_reference_mask_equals_that_of_diffusers_where_diffusers_supports_it(pipelines: WanPipelines) -> None:
    from diffusers import WanVACEPipeline

    mask, references = torch.rand(1, 3, 9, 64, 64).round(), [[torch.zeros(3, 64, 64)] * 2]
    assert torch.equal(pipelines.vace.prepare_masks(mask, references), WanVACEPipeline.prepare_masks(pipelines.vace, mask, references))
    assert pipelines.vace.prepare_masks(mask[:, :, :1], references).shape[2] == 3
