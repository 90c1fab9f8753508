"""Enhancement and the safety check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from handlers.sdxl.handler import load
from handlers.sdxl.nested import Enhance
from handlers.sdxl.postprocess.enhance import enhance
from handlers.sdxl.request import SdxlRequest
from shared.contract.assets import PictureMetadata
from shared.errors import ModelUnavailable
from shared.jobs.recipe import ImageOutput, Recipe
from shared.media.images import Pixels
from shared.settings import Settings, SettingsError
from tests.handlers.conftest import generate, image_outputs, sdxl
from tests.handlers.sdxl.files import write_safety_checker


@pytest.fixture(scope="module")
def image() -> Pixels:
    smooth = Image.fromarray(np.random.default_rng(0).integers(60, 200, (64, 64, 3), np.uint8)).filter(ImageFilter.GaussianBlur(2))
    return np.asarray(smooth)


def one(recipe: Recipe[SdxlRequest], **config: Any) -> ImageOutput:
    return image_outputs(generate(recipe, sdxl(**config)))[0]


def enhanced(pixels: Pixels, **settings: float) -> Pixels:
    request = sdxl(enhance=settings)
    assert request.enhance is not None
    return enhance(pixels, request.enhance)


def steepness(pixels: Pixels) -> float:
    return float(np.abs(np.diff(pixels.astype(float), axis=1)).mean())


def test_edges_get_steeper_with_the_strength_of_sharpening(image: Pixels) -> None:
    assert steepness(image) < steepness(enhanced(image, sharpen=0.5)) < steepness(enhanced(image, sharpen=1.0))
    flat = np.full((16, 16, 3), 90, np.uint8)
    assert np.array_equal(enhanced(flat, sharpen=1.0), flat)


def test_contrast_increases_the_distance_from_the_mean_grey(image: Pixels) -> None:
    deviations = [pixels.astype(float).std() for pixels in (image, enhanced(image, contrast=0.5), enhanced(image, contrast=1.0))]
    assert deviations[1] == pytest.approx(1.5 * deviations[0], rel=0.02)
    assert deviations[2] == pytest.approx(2 * deviations[0], rel=0.02)


def test_enhancement_with_defaults_changes_nothing(image: Pixels, sdxl_recipe: Recipe[SdxlRequest]) -> None:
    assert np.array_equal(enhanced(image), image)
    assert np.array_equal(one(sdxl_recipe, enhance={}).pixels, one(sdxl_recipe).pixels)
    assert Enhance.model_fields.keys() == {"sharpen", "contrast", "restore_faces"}


def test_a_job_is_enhanced_and_the_metadata_says_so(sdxl_recipe: Recipe[SdxlRequest]) -> None:
    plain = one(sdxl_recipe).pixels
    made = one(sdxl_recipe, enhance={"sharpen": 0.4, "contrast": 0.2})
    assert np.array_equal(made.pixels, enhanced(plain, sharpen=0.4, contrast=0.2))
    assert made.metadata["enhance"] == {"sharpen": 0.4, "contrast": 0.2}


def test_face_restoration_is_refused(sdxl_recipe: Recipe[SdxlRequest]) -> None:
    with pytest.raises(ModelUnavailable, match=r"config\.enhance\.restore_faces"):
        sdxl_recipe.check(sdxl(enhance={"restore_faces": True}))


@pytest.mark.parametrize(("threshold", "flagged"), [(-1.0, True), (1.0, False)])
def test_the_safety_check_flags_images_without_changing_them(tiny_models: Path, tmp_path: Path, threshold: float, flagged: bool) -> None:
    write_safety_checker(tmp_path / "safety_checker", threshold=threshold)
    recipe = load(Settings(models_dir=tmp_path, sdxl_model=tiny_models / "sdxl", device="cpu"))
    plain, checked = one(recipe), one(recipe, safety_check=True)
    assert np.array_equal(plain.pixels, checked.pixels)
    assert "nsfw_flagged" not in plain.metadata
    assert checked.metadata["nsfw_flagged"] is flagged


def test_the_flag_is_absent_without_a_safety_check() -> None:
    metadata = {"width": 8, "height": 8, "format": "png", "seed": 1, "file_size_bytes": 1, "asset_index": 0}
    assert "nsfw_flagged" not in PictureMetadata.model_validate(metadata).model_dump()
    assert PictureMetadata.model_validate(metadata | {"nsfw_flagged": False}).model_dump()["nsfw_flagged"] is False


def test_the_operator_can_enable_the_safety_check_for_every_job(tiny_models: Path, tmp_path: Path) -> None:
    settings = Settings(models_dir=tmp_path, sdxl_model=tiny_models / "sdxl", device="cpu", sdxl_safety_check=True)
    with pytest.raises(SettingsError, match=r"SDXL_SAFETY_CHECK is on, but MODELS_DIR has no safety_checker/"):
        load(settings)
    write_safety_checker(tmp_path / "safety_checker", threshold=-1.0)
    assert one(load(settings)).metadata["nsfw_flagged"] is True
