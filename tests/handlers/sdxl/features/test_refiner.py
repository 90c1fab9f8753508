"""The refiner makes the last steps."""

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
from tests.handlers.conftest import Watched, make, pictures, sdxl

URL = "https://a.example/b.png"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shelves(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MODELS_DIRs: `itself` has SDXL's own UNet as the refiner, `other` a small one of the published form."""
    folder = tmp_path_factory.mktemp("shelves")
    shutil.copytree(tiny_models / "sdxl/unet", folder / "itself/refiner/unet")
    shutil.copy(tiny_models / "sdxl/model_index.json", folder / "itself/refiner/model_index.json")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(5)
        write_refiner(folder / "other/refiner")
    (folder / "other/controlnets/canny").mkdir(parents=True)
    (folder / "other/controlnets/canny/config.json").touch()
    return folder


def recipe_with(addons: Path, tiny_models: Path) -> SdxlRecipe:
    recipe = load(Settings(models_dir=addons, sdxl_model=tiny_models / "sdxl", device="cpu"))
    assert isinstance(recipe, SdxlRecipe)
    return recipe


@pytest.fixture(scope="module")
def itself(shelves: Path, tiny_models: Path) -> SdxlRecipe:
    return recipe_with(shelves / "itself", tiny_models)


@pytest.fixture(scope="module")
def other(shelves: Path, tiny_models: Path) -> SdxlRecipe:
    return recipe_with(shelves / "other", tiny_models)


@pytest.fixture(scope="module")
def reference() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


def draw(recipe: SdxlRecipe, request: SdxlRequest, watched: Watched | None = None, reference: Image.Image | None = None) -> list[Pixels]:
    references = {} if reference is None else {"metadata.reference_image_url": reference}
    return [picture.pixels for picture in pictures(make(recipe, request, watched, references))]


def refined(switch_at: float, steps: int | None = None, **config: Any) -> SdxlRequest:
    return sdxl(refiner={"switch_at": switch_at, "steps": steps}, **config)


@pytest.mark.parametrize("scheduler", [None, "euler_a", "ddim"])
def test_with_the_base_unet_as_the_refiner_the_image_is_unchanged(itself: SdxlRecipe, scheduler: str) -> None:
    config: dict[str, Any] = {"scheduler": scheduler, "num_images": 3 if scheduler is None else 1}
    whole = draw(itself, sdxl(**config))
    for switch_at in (0.0, 0.05, 0.5, 0.8, 1.0):
        handed_over = draw(itself, refined(switch_at, **config))
        assert all(np.array_equal(one, other) for one, other in zip(handed_over, whole, strict=True)), switch_at


@pytest.mark.parametrize("scheduler", [None, "euler_karras"])
def test_with_the_base_unet_as_the_refiner_img2img_is_unchanged(itself: SdxlRecipe, reference: Image.Image, scheduler: str) -> None:
    config: dict[str, Any] = {"scheduler": scheduler, "image": URL, "denoise_strength": 0.55}
    (whole,) = draw(itself, sdxl(**config), reference=reference)
    for switch_at in (0.0, 0.45, 0.8, 1.0):
        (one,) = draw(itself, refined(switch_at, **config), reference=reference)
        assert np.array_equal(one, whole), switch_at


@pytest.mark.parametrize("steps", [None, 25])
def test_the_refiner_equals_diffusers_bit_for_bit(other: SdxlRecipe, tiny_models: Path, shelves: Path, steps: int | None) -> None:
    base = load_sdxl(tiny_models / "sdxl", CPU, torch.float32)
    base.register_to_config(force_zeros_for_empty_prompt=False)
    unet = UNet2DConditionModel.from_pretrained(shelves / "other/refiner/unet").requires_grad_(False)
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
        made = refiner(
            "a red circle", image=latents, num_inference_steps=steps or 10, denoising_start=0.8, output_type="np", generator=noise, **call
        ).images
    (drawn,) = draw(other, refined(0.8, steps, negative="blurry"))
    assert np.array_equal(drawn, (made[0] * 255).round().astype(np.uint8))


def test_the_refiner_changes_the_image_more_the_earlier_it_takes_over(other: SdxlRecipe) -> None:
    (plain,) = draw(other, sdxl())
    changes = [float(np.abs(draw(other, refined(at))[0].astype(float) - plain).mean()) for at in (1.0, 0.9, 0.5)]
    assert changes[0] == 0
    assert changes[0] < changes[1] < changes[2]


def test_progress_includes_the_refiners_steps(other: SdxlRecipe) -> None:
    watched = Watched()
    draw(other, refined(0.8), watched)
    assert watched.steps == [(step, 10) for step in range(1, 11)]
    watched = Watched()
    draw(other, refined(0.8, 20), watched)
    assert watched.steps == [(step, 12) for step in range(1, 13)]


def test_the_refiner_is_loaded_once_and_does_not_affect_later_jobs(other: SdxlRecipe) -> None:
    (before,) = draw(other, sdxl())
    (first,) = draw(other, refined(0.5))
    kept = other._addons._kept._results.copy()
    with pytest.raises(Cancelled):
        draw(other, refined(0.5), Watched(stop_at=8))
    assert np.array_equal(draw(other, refined(0.5))[0], first)
    assert np.array_equal(draw(other, sdxl())[0], before)
    assert [id(result) for result, _ in kept.values()] == [id(result) for result, _ in other._addons._kept._results.values()]


def test_only_the_refiners_unet_is_loaded(other: SdxlRecipe, shelves: Path) -> None:
    draw(other, refined(0.5))
    assert {path.name for path in (shelves / "other/refiner").iterdir()} == {"unet", "model_index.json"}
    assert 0.9 < other._addons._kept.size / (shelves / "other/refiner/unet/diffusion_pytorch_model.safetensors").stat().st_size <= 1


def test_metadata_reports_the_switch_and_the_steps(other: SdxlRecipe) -> None:
    (made,) = pictures(make(other, refined(0.8, 20)))
    assert made.metadata["refiner"] == {"switch_at": 0.8, "steps": 20}
    assert made.metadata["steps"] == 10


def test_a_refiner_that_is_not_installed_is_refused(sdxl_recipe: SdxlRecipe) -> None:
    with pytest.raises(ModelUnavailable, match=r"^The refiner is not installed"):
        sdxl_recipe.check(refined(0.8))


def test_a_refiner_for_other_text_encoders_is_refused_with_the_reason(tiny_models: Path, tmp_path: Path) -> None:
    config = UNet2DConditionModel.load_config(tiny_models / "sdxl/unet") | {"cross_attention_dim": 24}
    UNet2DConditionModel.from_config(config).save_pretrained(tmp_path / "refiner/unet")
    shutil.copy(tiny_models / "sdxl/model_index.json", tmp_path / "refiner/model_index.json")
    with pytest.raises(ModelUnavailable, match=r"^The refiner cannot be used: "):
        draw(recipe_with(tmp_path, tiny_models), refined(0.8))


def test_the_refiner_cannot_be_combined_with_controls(other: SdxlRecipe) -> None:
    with pytest.raises(ValidationError, match=r"`config\.refiner` cannot be combined with `config\.controls`"):
        other.check(refined(0.8, controls=[{"kind": "canny", "image": URL}]))


def identity(free: int | None) -> int | None:
    return free


def test_the_refiner_is_offloaded_if_it_does_not_fit_next_to_a_job(shelves: Path, tiny_models: Path) -> None:
    from handlers.sdxl.pipeline import configured

    recipe = recipe_with(shelves / "other", tiny_models)
    for free, crowded in ((None, False), (10**9, False), (1000, True)):
        with configured(recipe._pipeline, refined(0.8), {}, recipe._addons, free=partial(identity, free)) as stage:
            assert stage.refine is not None
            assert stage.refine.crowded == crowded
