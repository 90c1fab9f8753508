"""Img2img and exact copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline
from PIL import Image

from handlers.sdxl.features.img2img import effective_steps
from handlers.sdxl.handler import load
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.load import load_sdxl
from shared.errors import Cancelled, ModelUnavailable
from shared.jobs.recipe import ImageOutput, Recipe, Summary
from shared.media.images import Pixels
from shared.settings import Settings
from small_models.training.sdxl.classifier import classify
from small_models.training.sdxl.dataset import Figure, Scene, render
from tests.handlers.conftest import RecordedRun, generate, image_outputs, sdxl

Sdxl = Recipe[SdxlRequest]
NAME = "metadata.reference_image_url"
SCENE = Scene((Figure("circle", "red", "left", "large"),), "blue", striped=False)


@pytest.fixture(scope="module")
def reference() -> Pixels:
    return render(SCENE, np.random.default_rng(3))


@pytest.fixture(scope="module")
def trained(small_models: Path) -> Sdxl:
    return load(Settings(models_dir=small_models, device="cpu"))


def request_with(
    prompt: str = "a red circle", *, exact: bool = False, config: dict[str, Any] | None = None, **metadata: Any
) -> SdxlRequest:
    settings = {"resolution": "64x64", "steps": 10, "seed": 7, "guidance_scale": 2.0} | (config or {})
    metadata = {"reference_image_url": "https://a.example/b.png", "exact_copy_mode": exact} | metadata
    raw = {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": prompt, "negative_prompt": "", "config": settings}
    return SdxlRequest.parse({**raw, "metadata": metadata}, job_id="j")


def draw(recipe: Sdxl, request: SdxlRequest, reference: Pixels, recorded: RecordedRun | None = None) -> list[ImageOutput]:
    return image_outputs(generate(recipe, request, recorded, references={NAME: Image.fromarray(reference)}))


def summary_of(recipe: Sdxl, request: SdxlRequest) -> Summary:
    return recipe.summarize(request, [])


def distance(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(np.float32) - other).mean())


@pytest.mark.parametrize("scheduler", [None, "heun", "dpmpp_2m_karras", "lcm"])
@pytest.mark.parametrize("count", [1, 3])
def test_img2img_equals_diffusers_bit_for_bit(
    sdxl_recipe: Sdxl, tiny_models: Path, reference: Pixels, count: int, scheduler: str | None
) -> None:
    import diffusers

    from handlers.sdxl.features.scheduler import SCHEDULERS

    plain = load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32)
    parts = dict(plain.components)
    if scheduler is not None:
        config = next(config for name, config in SCHEDULERS.items() if name == scheduler)
        parts["scheduler"] = getattr(diffusers, config.class_name).from_config(plain.scheduler.config, **config.overrides)
    direct = StableDiffusionXLImg2ImgPipeline(**parts)
    direct.set_progress_bar_config(disable=True)
    direct.vae.enable_slicing()
    with torch.inference_mode():
        expected = direct(
            "a red circle",
            negative_prompt="",
            image=Image.fromarray(reference),
            strength=0.6,
            num_inference_steps=10,
            guidance_scale=2.0,
            num_images_per_prompt=count,
            generator=[torch.Generator().manual_seed(7 + index) for index in range(count)],
            output_type="np",
        ).images
    request = request_with(denoise_strength=0.6, config={"num_images": count} | ({"scheduler": scheduler} if scheduler else {}))
    drawn = draw(sdxl_recipe, request, reference)
    assert len(drawn) == count
    for one, other in zip(drawn, expected, strict=True):
        assert np.array_equal(one.pixels, (other * 255).round().astype(np.uint8))


def test_the_distance_from_the_reference_grows_with_the_strength(trained: Sdxl, reference: Pixels) -> None:
    distances = [
        distance(
            draw(trained, request_with("a green square at the right, yellow background", denoise_strength=denoise), reference)[0].pixels,
            reference,
        )
        for denoise in (0.1, 0.5, 0.8, 1.0)
    ]
    assert distances == sorted(distances)
    assert distances[-1] > 4 * distances[0]


def test_low_strength_keeps_the_reference_and_high_strength_follows_the_prompt(trained: Sdxl, reference: Pixels) -> None:
    prompt = "a green square at the right, yellow background"
    config = {"steps": 20}
    little, much = (draw(trained, request_with(prompt, denoise_strength=value, config=config), reference)[0].pixels for value in (0.2, 1.0))
    assert (classify(little).color, classify(little).background, classify(little).place) == ("red", "blue", "left")
    assert (classify(much).color, classify(much).background, classify(much).place) == ("green", "yellow", "right")


def test_denoise_strength_overrides_its_complement_reference_strength(sdxl_recipe: Sdxl, reference: Pixels) -> None:
    def pixels(**metadata: Any) -> Pixels:
        return draw(sdxl_recipe, request_with(**metadata), reference)[0].pixels

    assert np.array_equal(pixels(reference_mode="modify", reference_strength=0.25), pixels(denoise_strength=0.75))
    assert np.array_equal(pixels(denoise_strength=0.3, reference_strength=0.1), pixels(denoise_strength=0.3))
    assert not np.array_equal(pixels(denoise_strength=0.3), pixels(denoise_strength=0.75))


@pytest.mark.parametrize(
    ("steps", "denoise", "made"), [(10, 0.05, 1), (10, 0.0, 1), (49, 0.0, 1), (25, 0.3, 7), (10, 1.0, 10), (15, 0.99, 14)]
)
def test_at_least_one_step_runs_and_the_number_is_reported(
    sdxl_recipe: Sdxl, reference: Pixels, steps: int, denoise: float, made: int
) -> None:
    request, recorded = request_with(denoise_strength=denoise, config={"steps": steps}), RecordedRun()
    (image,) = draw(sdxl_recipe, request, reference, recorded)
    assert effective_steps(request) == len(recorded.steps) == image.metadata["steps"] == image.metadata["num_inference_steps"] == made
    warned = summary_of(sdxl_recipe, request).warnings
    assert bool(warned) == (int(steps * denoise) < 1)
    assert all("denoise_strength" in warning and "one step is run" in warning for warning in warned)


def test_a_reference_of_another_shape_is_centre_cropped(sdxl_recipe: Sdxl, reference: Pixels) -> None:
    wide = np.concatenate([np.zeros_like(reference), reference, np.zeros_like(reference)], axis=1)
    request = request_with(denoise_strength=0.3)
    assert np.array_equal(draw(sdxl_recipe, request, wide)[0].pixels, draw(sdxl_recipe, request, reference)[0].pixels)


@pytest.mark.parametrize("count", [1, 3])
def test_an_exact_copy_is_the_reference_itself(sdxl_recipe: Sdxl, reference: Pixels, count: int) -> None:
    request = request_with("", exact=True, config={"num_images": count})
    copies = draw(sdxl_recipe, request, reference)
    assert len(copies) == count
    assert all(np.array_equal(copy.pixels, reference) for copy in copies)
    assert (copies[0].metadata["steps"], copies[0].metadata["guidance_scale"]) == (0, 1.0)
    metadata = summary_of(sdxl_recipe, request).metadata
    assert (metadata["reference_mode"], metadata["reference_method"], metadata["exact_copy_mode"]) == ("copy", "copy", True)


def test_exact_copy_mode_with_a_prompt_generates_an_image(sdxl_recipe: Sdxl, reference: Pixels) -> None:
    request = request_with("a red circle", exact=True, denoise_strength=0.5)
    assert not np.array_equal(draw(sdxl_recipe, request, reference)[0].pixels, reference)
    assert summary_of(sdxl_recipe, request).metadata["exact_copy_mode"] is False


def test_the_payload_reports_method_mode_and_strength(sdxl_recipe: Sdxl) -> None:
    metadata = summary_of(sdxl_recipe, request_with(denoise_strength=0.6)).metadata
    assert (metadata["reference_mode"], metadata["reference_method"]) == ("modify", "img2img")
    assert (metadata["denoise_strength"], metadata["reference_strength"]) == (0.6, 0.4)
    plain = summary_of(sdxl_recipe, sdxl()).metadata
    assert plain["reference_mode"] == "none"
    assert "reference_method" not in plain


@pytest.mark.parametrize("kind", ["style", "composition", "character"])
def test_a_reference_type_without_an_adapter_is_refused_rather_than_replaced(sdxl_recipe: Sdxl, kind: str) -> None:
    with pytest.raises(ModelUnavailable, match=f"metadata.reference_type.*'{kind}'.*SDXL_REFERENCE_METHOD"):
        sdxl_recipe.check(request_with(reference_type=kind))


@pytest.mark.parametrize("kind", ["style", "composition", "character"])
def test_img2img_serves_every_reference_type_if_so_configured(tiny_models: Path, reference: Pixels, kind: str) -> None:
    recipe = load(Settings(models_dir=tiny_models, device="cpu", sdxl_reference_method="img2img"))
    request = request_with(reference_type=kind, reference_strength=0.25)
    assert np.array_equal(
        draw(recipe, request, reference)[0].pixels, draw(recipe, request_with(denoise_strength=0.75), reference)[0].pixels
    )
    metadata = summary_of(recipe, request).metadata
    assert (metadata["reference_mode"], metadata["reference_method"]) == (kind, "img2img")


def test_img2img_does_not_affect_later_jobs(sdxl_recipe: Sdxl, reference: Pixels) -> None:
    before = image_outputs(generate(sdxl_recipe, sdxl()))[0].pixels
    draw(sdxl_recipe, request_with(denoise_strength=0.5), reference)
    with pytest.raises(Cancelled):
        draw(sdxl_recipe, request_with(denoise_strength=1.0), reference, RecordedRun(stop_at=2))
    assert np.array_equal(image_outputs(generate(sdxl_recipe, sdxl()))[0].pixels, before)


def test_img2img_keeps_the_vae_in_float32(tiny_models: Path, reference: Pixels) -> None:
    from handlers.sdxl.recipe import SdxlRecipe
    from shared.weights.addons import AddonLibrary

    half = load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float16)
    recipe = SdxlRecipe(half, AddonLibrary(tiny_models))
    draw(recipe, request_with(denoise_strength=0.5), reference)
    assert (half.vae.dtype, half.unet.dtype) == (torch.float32, torch.float16)
