"""Text-to-image on the tiny model: every parameter has an effect."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from handlers.sdxl.prompt_weights import WeightedText
from handlers.sdxl.request import SdxlRequest
from shared.errors import Cancelled, ModelUnavailable
from shared.jobs.recipe import ImageOutput, Recipe
from shared.media.images import Pixels
from tests.handlers.conftest import RecordedRun, generate, image_outputs, sdxl

Sdxl = Recipe[SdxlRequest]


def one(recipe: Sdxl, request: SdxlRequest) -> ImageOutput:
    (image,) = image_outputs(generate(recipe, request))
    return image


@pytest.fixture(scope="module")
def default_pixels(sdxl_recipe: Sdxl) -> Pixels:
    """The image of the default request."""
    return one(sdxl_recipe, sdxl()).pixels


def differs(recipe: Sdxl, request: SdxlRequest, default_pixels: Pixels) -> bool:
    """Whether the image differs from that of the default request."""
    return not np.array_equal(one(recipe, request).pixels, default_pixels)


def test_the_same_request_yields_the_same_pixels(sdxl_recipe: Sdxl, default_pixels: Pixels) -> None:
    assert not differs(sdxl_recipe, sdxl(), default_pixels)


def test_images_have_the_requested_size(sdxl_recipe: Sdxl) -> None:
    assert one(sdxl_recipe, sdxl(resolution="96x64")).pixels.shape == (64, 96, 3)


@pytest.mark.parametrize("count", [3, 6])
def test_image_i_of_a_batch_equals_a_single_image_with_its_seed(sdxl_recipe: Sdxl, count: int) -> None:
    """Except for rounding: kernels sum in an order that depends on the batch size, so a few values in ten thousand differ by one level."""
    batch = image_outputs(generate(sdxl_recipe, sdxl(num_images=count)))
    assert [image.seed for image in batch] == list(range(7, 7 + count))
    for image in batch:
        alone = one(sdxl_recipe, sdxl(seed=image.seed)).pixels
        difference = np.abs(image.pixels.astype(int) - alone.astype(int))
        assert difference.max() <= 1
        assert (difference > 0).mean() <= 5e-4
    assert not np.array_equal(batch[0].pixels, batch[1].pixels)


@pytest.mark.parametrize(
    "request_",
    [
        sdxl("a blue square"),
        sdxl(negative="blurry"),
        sdxl(steps=11),
        sdxl(guidance_scale=12.0),
        sdxl(guidance_scale=1.0),
        sdxl(guidance_rescale=0.7),
        sdxl(clip_skip=1),
        sdxl(clip_skip=2),
        sdxl(seed=8),
    ],
    ids=["prompt", "negative prompt", "steps", "guidance", "no guidance", "rescale", "clip skip 1", "clip skip 2", "seed"],
)
def test_every_parameter_changes_the_image(sdxl_recipe: Sdxl, request_: SdxlRequest, default_pixels: Pixels) -> None:
    assert differs(sdxl_recipe, request_, default_pixels)


def test_an_absent_negative_prompt_equals_an_empty_one(sdxl_recipe: Sdxl, default_pixels: Pixels) -> None:
    assert not differs(sdxl_recipe, sdxl(negative=""), default_pixels)


def test_long_prompts_are_not_truncated(sdxl_recipe: Sdxl) -> None:
    long = "a red circle and a blue square on a green ground, " * 40
    assert not np.array_equal(one(sdxl_recipe, sdxl(long + "at dawn")).pixels, one(sdxl_recipe, sdxl(long + "at dusk")).pixels)


def test_a_short_prompt_is_encoded_as_by_diffusers(sdxl_recipe: Sdxl) -> None:
    import torch

    from handlers.sdxl.prompts import encode_prompts
    from handlers.sdxl.recipe import SdxlRecipe

    assert isinstance(sdxl_recipe, SdxlRecipe)
    pipeline = sdxl_recipe._pipeline
    with torch.inference_mode():
        ours = encode_prompts(pipeline, [WeightedText("a red circle")], [WeightedText("blurry")], clip_skip=0)
        theirs = pipeline.encode_prompt("a red circle", negative_prompt="blurry", do_classifier_free_guidance=True)
    for mine, other in zip((ours.prompt, ours.negative, ours.pooled, ours.negative_pooled), theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)


def test_special_tokens_in_a_prompt_are_encoded_as_text(sdxl_recipe: Sdxl) -> None:
    """Otherwise an end token would hide the rest of the prompt from the pooled embedding."""
    import torch

    from handlers.sdxl.prompts import encode_prompts
    from handlers.sdxl.recipe import SdxlRecipe

    assert isinstance(sdxl_recipe, SdxlRecipe)
    with torch.inference_mode():
        typed, alone = (
            encode_prompts(sdxl_recipe._pipeline, [WeightedText(prompt)], [], 0).pooled
            for prompt in ("a red <|endoftext|> circle", "a red")
        )
    assert not torch.equal(typed, alone)


def test_image_metadata_reports_the_effective_settings(sdxl_recipe: Sdxl) -> None:
    image = one(sdxl_recipe, sdxl(steps=12, guidance_scale=3.5, output_format="jpeg"))
    assert image.format == "jpeg"
    settings = {"batch_size": 1, "steps": 12, "num_inference_steps": 12, "guidance_scale": 3.5}
    assert image.metadata == {**settings, "acceleration": "lossless", "accelerated_by": []}


def test_progress_reports_every_step(sdxl_recipe: Sdxl) -> None:
    recorded = RecordedRun()
    generate(sdxl_recipe, sdxl(steps=12), recorded)
    assert recorded.steps == [(step, 12) for step in range(1, 13)]


def test_a_cancelled_job_stops_within_a_step_and_leaves_the_pipeline_unchanged(sdxl_recipe: Sdxl) -> None:
    before = one(sdxl_recipe, sdxl()).pixels
    recorded = RecordedRun(stop_at=3)
    with pytest.raises(Cancelled):
        generate(sdxl_recipe, sdxl(steps=50), recorded)
    assert recorded.steps[-1][0] <= 4
    assert np.array_equal(one(sdxl_recipe, sdxl()).pixels, before)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"loras": [{"name": "pixels"}]}, r"LoRA 'pixels' is not installed"),
        ({"textual_inversions": ["style"]}, r"Textual inversion 'style' is not installed"),
        ({"vae": "other"}, r"VAE 'other' is not installed"),
        ({"refiner": {"switch_at": 0.8}}, r"The refiner is not installed"),
        ({"upscale": {"factor": 2}}, r"config\.upscale`: no installed upscaler supports factor 2"),
        ({"upscale": {"factor": 4, "model": "x"}}, r"Upscaler 'x' is not installed"),
        ({"safety_check": True}, r"The safety checker is not installed"),
        ({"enhance": {"restore_faces": True}}, r"config\.enhance\.restore_faces`: this worker has no face detector"),
        ({"controls": [{"kind": "canny", "image": "https://a.example/b.png"}]}, r"ControlNet 'canny' is not installed"),
        ({"image": "https://a.example/b.png"}, "metadata.reference_type"),
    ],
)
def test_addons_that_are_not_installed_are_refused_by_name(sdxl_recipe: Sdxl, config: dict[str, Any], field: str) -> None:
    with pytest.raises(ModelUnavailable, match=field):
        sdxl_recipe.check(sdxl(**config))  # before any work
