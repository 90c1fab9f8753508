"""ControlNets, compared with diffusers and by the position of figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetImg2ImgPipeline, StableDiffusionXLControlNetPipeline
from PIL import Image

from handlers.sdxl.features.canny import canny_edges
from handlers.sdxl.handler import load
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.load import load_sdxl
from shared.errors import Cancelled, ModelUnavailable, ValidationError
from shared.jobs.recipe import Recipe
from shared.media.images import Pixels
from shared.settings import Settings
from small_models.training.addons.edges import edge_map
from small_models.training.sdxl.classifier import classify
from small_models.training.sdxl.dataset import Figure, Scene, render
from tests.handlers.conftest import RecordedRun, generate, image_outputs, sdxl

Sdxl = Recipe[SdxlRequest]
PROMPT = "a red circle on a white background"
URL = "https://a.example/b.png"


@pytest.fixture(scope="module")
def recipe(small_models: Path) -> Sdxl:
    return load(Settings(models_dir=small_models, device="cpu"))


def image(place: str, shape: str = "circle") -> Image.Image:
    scene = Scene((Figure(shape, "red", place, "large"),), "white", striped=False)
    return Image.fromarray(render(scene, np.random.default_rng(1)))


def control_image(place: str) -> Image.Image:
    return Image.fromarray(edge_map(np.asarray(image(place))))


def request_with(*controls: dict[str, Any], **config: Any) -> SdxlRequest:
    full = [{"kind": "canny", "image": URL} | control for control in controls]
    return sdxl(PROMPT, negative="", controls=full, **{"guidance_scale": 2.0, "steps": 20} | config)


def draw(
    recipe: Sdxl, request: SdxlRequest, *given: Image.Image, main: Image.Image | None = None, recorded: RecordedRun | None = None
) -> Pixels:
    references = {f"config.controls[{index}].image": one for index, one in enumerate(given)}
    if main is not None:
        references["metadata.reference_image_url"] = main
    return image_outputs(generate(recipe, request, recorded, references=references))[0].pixels


@pytest.mark.parametrize("place", ["left", "right", "top", "bottom"])
def test_a_figure_is_drawn_where_the_control_image_has_edges(recipe: Sdxl, place: str) -> None:
    shown = classify(draw(recipe, request_with({"prepared": True}), control_image(place)))
    assert (shown.place, shown.color, shown.background) == (place, "red", "white")
    assert classify(draw(recipe, request_with())).place == "centre"


def test_an_ordinary_image_is_preprocessed_to_edges(recipe: Sdxl) -> None:
    assert classify(draw(recipe, request_with({}), image("top"))).place == "top"


def test_canny_edges_are_white_lines_on_black() -> None:
    square = np.zeros((64, 96, 3), np.uint8)
    square[16:48, 32:64] = 255
    drawn = np.asarray(canny_edges(Image.fromarray(square)))
    assert drawn.shape == (64, 96, 3)
    assert set(np.unique(drawn)) == {0, 255}
    rows, columns = np.nonzero(drawn[..., 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((16, 47, 32, 63), abs=1)
    assert not drawn[20:44, 36:60].any()


def test_a_control_image_of_another_shape_is_centre_cropped(recipe: Sdxl) -> None:
    wide = Image.new("RGB", (192, 64))
    wide.paste(control_image("top"), (64, 0))
    request = request_with({"prepared": True}, steps=10)
    assert np.array_equal(draw(recipe, request, wide), draw(recipe, request, control_image("top")))


@pytest.mark.parametrize("control", [{"strength": 0.0}, {"until": 0.0}])
def test_a_control_without_strength_or_duration_changes_nothing(recipe: Sdxl, control: dict[str, Any]) -> None:
    assert np.array_equal(
        draw(recipe, request_with({"prepared": True} | control, steps=10), control_image("left")), draw(recipe, request_with(steps=10))
    )


def test_strength_and_until_increase_the_adherence_to_the_edges(recipe: Sdxl) -> None:
    def left_half(**control: Any) -> float:
        """The share of red in the left half."""
        pixels = draw(recipe, request_with({"prepared": True} | control), control_image("left")).astype(np.float32)
        red = np.clip(pixels[..., 0] - pixels[..., 1], 0, None)
        return float(red[:, :32].sum() / red.sum())

    assert left_half(strength=0.2) < left_half(strength=1.0)
    assert left_half(until=0.05) < left_half(until=1.0)


def direct(small_models: Path, kind: Any) -> Any:
    parts = load_sdxl(small_models / "sdxl", torch.device("cpu"), torch.float32).components
    network = ControlNetModel.from_pretrained(small_models / "controlnets/canny", dtype=torch.float32).requires_grad_(False)
    pipeline = kind(**parts, controlnet=[network, network], force_zeros_for_empty_prompt=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


CALL: dict[str, Any] = {
    "negative_prompt": "",
    "num_inference_steps": 10,
    "guidance_scale": 2.0,
    "controlnet_conditioning_scale": [0.7, 0.4],
    "control_guidance_end": [1.0, 0.5],
    "output_type": "np",
}
TWO = ({"prepared": True, "strength": 0.7}, {"prepared": True, "strength": 0.4, "until": 0.5})


def test_two_controlnets_equal_diffusers_bit_for_bit(recipe: Sdxl, small_models: Path) -> None:
    plain, noise = direct(small_models, StableDiffusionXLControlNetPipeline), torch.Generator().manual_seed(7)
    with torch.inference_mode():
        (expected,) = plain(
            PROMPT, image=[control_image("left"), control_image("top")], width=64, height=64, generator=noise, **CALL
        ).images
    drawn = draw(recipe, request_with(*TWO, steps=10), control_image("left"), control_image("top"))
    assert np.array_equal(drawn, (expected * 255).round().astype(np.uint8))


def test_controlnets_with_img2img_equal_diffusers_bit_for_bit(recipe: Sdxl, small_models: Path) -> None:
    plain, noise = direct(small_models, StableDiffusionXLControlNetImg2ImgPipeline), torch.Generator().manual_seed(7)
    start = image("right")
    with torch.inference_mode():
        control_images = [control_image("left"), control_image("top")]
        (expected,) = plain(PROMPT, image=start, control_image=control_images, strength=0.8, generator=noise, **CALL).images
    request = request_with(*TWO, steps=10, image=URL, denoise_strength=0.8)
    drawn = draw(recipe, request, control_image("left"), control_image("top"), main=start)
    assert np.array_equal(drawn, (expected * 255).round().astype(np.uint8))


def test_controlnets_do_not_affect_later_jobs(recipe: Sdxl) -> None:
    before = draw(recipe, request_with(steps=10))
    draw(recipe, request_with({"prepared": True}, steps=10), control_image("left"))
    with pytest.raises(Cancelled):
        draw(recipe, request_with({"prepared": True}), control_image("left"), recorded=RecordedRun(stop_at=3))
    assert np.array_equal(draw(recipe, request_with(steps=10)), before)


def test_a_kind_that_is_not_installed_is_refused_with_the_available_ones(recipe: Sdxl) -> None:
    with pytest.raises(ModelUnavailable, match=r"ControlNet 'depth' is not installed\. Available: canny"):
        recipe.check(request_with({"kind": "depth"}))


@pytest.mark.parametrize(
    "other",
    [{"cross_attention_dim": 32}, {"block_out_channels": (64, 96, 96)}, {"addition_embed_type": None}],
    ids=lambda other: next(iter(other)),
)
def test_a_controlnet_for_another_model_is_refused_with_the_reason(small_models: Path, tmp_path: Path, other: dict[str, Any]) -> None:
    config = ControlNetModel.load_config(small_models / "controlnets/canny")
    ControlNetModel.from_config(config | other).save_pretrained(tmp_path / "controlnets/canny")
    recipe = load(Settings(models_dir=tmp_path, sdxl_model=small_models / "sdxl", device="cpu"))
    with pytest.raises(ModelUnavailable, match=r"^ControlNet 'canny' cannot be used: .*made for another model"):
        draw(recipe, request_with({"prepared": True}), control_image("left"))


@pytest.mark.parametrize("more", [{}, {"image": URL, "denoise_strength": 0.5}])
def test_guidance_rescale_cannot_be_combined_with_controls_without_a_mask(recipe: Sdxl, more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"config\.guidance_rescale.*config\.controls"):
        recipe.check(request_with({"prepared": True}, guidance_rescale=0.5, **more))
    recipe.check(request_with({"prepared": True}, guidance_rescale=0.0, **more))
    recipe.check(request_with({"prepared": True}, guidance_rescale=0.5, **more | {"image": URL, "mask": URL}))


def test_an_image_without_a_preprocessor_is_refused_with_the_available_ones(small_models: Path, tmp_path: Path) -> None:
    (tmp_path / "controlnets").mkdir()
    for file in ("config.json", "diffusion_pytorch_model.safetensors"):
        (tmp_path / "controlnets/pose").mkdir(exist_ok=True)
        (tmp_path / "controlnets/pose" / file).write_bytes((small_models / "controlnets/canny" / file).read_bytes())
    recipe = load(Settings(models_dir=tmp_path, sdxl_model=small_models / "sdxl", device="cpu"))
    with pytest.raises(ModelUnavailable, match=r"config\.controls\[0\]\.image`.*prepared: true.*'pose'; available: canny"):
        recipe.check(request_with({"kind": "pose"}))
    assert classify(draw(recipe, request_with({"kind": "pose", "prepared": True}), control_image("left"))).place == "left"


def test_metadata_lists_the_controls(recipe: Sdxl) -> None:
    request = request_with({"prepared": True, "strength": 0.5}, steps=10)
    (made,) = image_outputs(generate(recipe, request, references={"config.controls[0].image": control_image("left")}))
    assert made.metadata["controls"] == [{"kind": "canny", "strength": 0.5, "until": 1.0}]
