"""The refiner, compared with diffusers and with the base UNet in its place."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel
from PIL import Image

from handlers.sdxl.handler import load
from handlers.sdxl.recipe import SdxlRecipe
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.load import load_sdxl
from shared.errors import Cancelled, ModelUnavailable, ValidationError
from shared.media.images import Pixels
from shared.settings import Settings
from small_models.tiny.sdxl import write_refiner
from tests.handlers.conftest import RecordedRun, generate, image_outputs, sdxl

URL = "https://a.example/b.png"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model_dirs(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two MODELS_DIRs: `base` has SDXL's own UNet as the refiner, `small` a small one with the published architecture."""
    folder = tmp_path_factory.mktemp("shelves")
    shutil.copytree(tiny_models / "sdxl/unet", folder / "base/refiner/unet")
    shutil.copy(tiny_models / "sdxl/model_index.json", folder / "base/refiner/model_index.json")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(5)
        write_refiner(folder / "small/refiner")
    (folder / "small/controlnets/canny").mkdir(parents=True)
    (folder / "small/controlnets/canny/config.json").touch()
    return folder


def recipe_with(addons: Path, tiny_models: Path) -> SdxlRecipe:
    recipe = load(Settings(models_dir=addons, sdxl_model=tiny_models / "sdxl", device="cpu"))
    assert isinstance(recipe, SdxlRecipe)
    return recipe


@pytest.fixture(scope="module")
def base_as_refiner(model_dirs: Path, tiny_models: Path) -> SdxlRecipe:
    return recipe_with(model_dirs / "base", tiny_models)


@pytest.fixture(scope="module")
def small_refiner(model_dirs: Path, tiny_models: Path) -> SdxlRecipe:
    return recipe_with(model_dirs / "small", tiny_models)


@pytest.fixture(scope="module")
def reference() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


def draw(
    recipe: SdxlRecipe, request: SdxlRequest, recorded: RecordedRun | None = None, reference: Image.Image | None = None
) -> list[Pixels]:
    references = {} if reference is None else {"metadata.reference_image_url": reference}
    return [image.pixels for image in image_outputs(generate(recipe, request, recorded, references))]


def refined(switch_at: float, steps: int | None = None, **config: Any) -> SdxlRequest:
    return sdxl(refiner={"switch_at": switch_at, "steps": steps}, **config)


@pytest.mark.parametrize("scheduler", [None, "euler_a", "ddim"])
def test_with_the_base_unet_as_the_refiner_the_image_is_unchanged(base_as_refiner: SdxlRecipe, scheduler: str) -> None:
    config: dict[str, Any] = {"scheduler": scheduler, "num_images": 3 if scheduler is None else 1}
    whole = draw(base_as_refiner, sdxl(**config))
    for switch_at in (0.0, 0.05, 0.5, 0.8, 1.0):
        refined_images = draw(base_as_refiner, refined(switch_at, **config))
        assert all(np.array_equal(one, small_refiner) for one, small_refiner in zip(refined_images, whole, strict=True)), switch_at


@pytest.mark.parametrize("scheduler", [None, "euler_karras"])
def test_with_the_base_unet_as_the_refiner_img2img_is_unchanged(
    base_as_refiner: SdxlRecipe, reference: Image.Image, scheduler: str
) -> None:
    config: dict[str, Any] = {"scheduler": scheduler, "image": URL, "denoise_strength": 0.55}
    (whole,) = draw(base_as_refiner, sdxl(**config), reference=reference)
    for switch_at in (0.0, 0.45, 0.8, 1.0):
        (one,) = draw(base_as_refiner, refined(switch_at, **config), reference=reference)
        assert np.array_equal(one, whole), switch_at


@pytest.mark.parametrize("steps", [None, 25])
def test_the_refiner_equals_diffusers_bit_for_bit(
    small_refiner: SdxlRecipe, tiny_models: Path, model_dirs: Path, steps: int | None
) -> None:
    base = load_sdxl(tiny_models / "sdxl", CPU, torch.float32)
    base.register_to_config(force_zeros_for_empty_prompt=False)
    unet = UNet2DConditionModel.from_pretrained(model_dirs / "small/refiner/unet").requires_grad_(False)
    parts = base.components | {"unet": unet, "text_encoder": None, "tokenizer": None}
    refiner = StableDiffusionXLImg2ImgPipeline(**parts, requires_aesthetics_score=True, force_zeros_for_empty_prompt=False)
    refiner.set_progress_bar_config(disable=True)
    call: dict[str, Any] = {"negative_prompt": "blurry", "guidance_scale": 6.0}
    with torch.inference_mode():
        noise = torch.Generator().manual_seed(7)
        size = {"width": 64, "height": 64}
        latents = base(
            "a red circle", **size, num_inference_steps=10, denoising_end=0.8, output_type="latent", generator=noise, **call
        ).images
        image = refiner(
            "a red circle", image=latents, num_inference_steps=steps or 10, denoising_start=0.8, output_type="np", generator=noise, **call
        ).images
    (drawn,) = draw(small_refiner, refined(0.8, steps, negative="blurry"))
    assert np.array_equal(drawn, (image[0] * 255).round().astype(np.uint8))


def test_the_refiner_changes_the_image_more_the_earlier_it_takes_over(small_refiner: SdxlRecipe) -> None:
    (plain,) = draw(small_refiner, sdxl())
    changes = [float(np.abs(draw(small_refiner, refined(at))[0].astype(float) - plain).mean()) for at in (1.0, 0.9, 0.5)]
    assert changes[0] == 0
    assert changes[0] < changes[1] < changes[2]


def test_progress_includes_the_refiners_steps(small_refiner: SdxlRecipe) -> None:
    recorded = RecordedRun()
    draw(small_refiner, refined(0.8), recorded)
    assert recorded.steps == [(step, 10) for step in range(1, 11)]
    recorded = RecordedRun()
    draw(small_refiner, refined(0.8, 20), recorded)
    assert recorded.steps == [(step, 12) for step in range(1, 13)]


def test_the_refiner_is_loaded_once_and_does_not_affect_later_jobs(small_refiner: SdxlRecipe) -> None:
    (before,) = draw(small_refiner, sdxl())
    (first,) = draw(small_refiner, refined(0.5))
    cached = [id(entry[0]) for entry in small_refiner._addons._cache.values()]
    with pytest.raises(Cancelled):
        draw(small_refiner, refined(0.5), RecordedRun(stop_at=8))
    assert np.array_equal(draw(small_refiner, refined(0.5))[0], first)
    assert np.array_equal(draw(small_refiner, sdxl())[0], before)
    assert [id(entry[0]) for entry in small_refiner._addons._cache.values()] == cached


def test_only_the_refiners_unet_is_loaded(small_refiner: SdxlRecipe, model_dirs: Path) -> None:
    draw(small_refiner, refined(0.5))
    assert {path.name for path in (model_dirs / "small/refiner").iterdir()} == {"unet", "model_index.json"}
    assert (
        0.9
        < small_refiner._addons._cache.currsize / (model_dirs / "small/refiner/unet/diffusion_pytorch_model.safetensors").stat().st_size
        <= 1
    )


def test_metadata_reports_the_switch_and_the_steps(small_refiner: SdxlRecipe) -> None:
    (image,) = image_outputs(generate(small_refiner, refined(0.8, 20)))
    assert image.metadata["refiner"] == {"switch_at": 0.8, "steps": 20}
    assert image.metadata["steps"] == 10


def test_a_refiner_that_is_not_installed_is_refused(sdxl_recipe: SdxlRecipe) -> None:
    with pytest.raises(ModelUnavailable, match=r"^The refiner is not installed"):
        sdxl_recipe.check(refined(0.8))


def test_a_refiner_for_other_text_encoders_is_refused_with_the_reason(tiny_models: Path, tmp_path: Path) -> None:
    config = UNet2DConditionModel.load_config(tiny_models / "sdxl/unet") | {"cross_attention_dim": 24}
    UNet2DConditionModel.from_config(config).save_pretrained(tmp_path / "refiner/unet")
    shutil.copy(tiny_models / "sdxl/model_index.json", tmp_path / "refiner/model_index.json")
    with pytest.raises(ModelUnavailable, match=r"^The refiner cannot be used: it was not made for SDXL's text encoders"):
        draw(recipe_with(tmp_path, tiny_models), refined(0.8))


def test_the_refiner_cannot_be_combined_with_controls(small_refiner: SdxlRecipe) -> None:
    with pytest.raises(ValidationError, match=r"`config\.refiner` cannot be combined with `config\.controls`"):
        small_refiner.check(refined(0.8, controls=[{"kind": "canny", "image": URL}]))


def test_the_refiner_is_offloaded_if_it_does_not_fit_next_to_a_job(model_dirs: Path, tiny_models: Path) -> None:
    from handlers.sdxl.pipeline import configured

    recipe = recipe_with(model_dirs / "small", tiny_models)
    for bytes_free, offload in ((None, False), (10**9, False), (1000, True)):
        free_memory = (lambda: None) if bytes_free is None else partial(int, bytes_free)
        with configured(recipe._pipeline, refined(0.8), {}, recipe._addons, free_memory=free_memory) as job:
            assert job.refiner is not None
            assert job.refiner.offload == offload
