"""Inpainting, compared with diffusers inside the mask and with the reference outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetInpaintPipeline, StableDiffusionXLInpaintPipeline
from PIL import Image

from handlers.sdxl.features import inpaint
from handlers.sdxl.features.scheduler import SCHEDULERS
from handlers.sdxl.handler import load
from handlers.sdxl.recipe import SdxlRecipe
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.load import load_sdxl
from shared.errors import Cancelled, ValidationError
from shared.jobs.recipe import ImageOutput, Recipe
from shared.media.images import Pixels
from shared.settings import Settings
from shared.weights.addons import AddonLibrary
from small_models.training.sdxl.classifier import classify
from small_models.training.sdxl.dataset import Figure, Scene, render
from tests.handlers.conftest import RecordedRun, generate, image_outputs, sdxl
from tests.handlers.sdxl.files import write_lora

Sdxl = Recipe[SdxlRequest]
URL = "https://a.example/b.png"
PROMPT = "a red circle"


@pytest.fixture(scope="module")
def reference() -> Image.Image:
    scene = Scene((Figure("circle", "red", "left", "large"),), "blue", striped=False)
    return Image.fromarray(render(scene, np.random.default_rng(3)))


def mask(share: float = 0.5, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """A mask that is white in a share of the width, from the left."""
    made = np.zeros((size[1], size[0], 3), np.uint8)
    made[:, : round(size[0] * share)] = 255
    return Image.fromarray(made)


def request_with(prompt: str = PROMPT, *, denoise: float = 0.6, **config: Any) -> SdxlRequest:
    settings = {"image": URL, "mask": URL, "guidance_scale": 2.0, "denoise_strength": denoise} | config
    return sdxl(prompt, negative="", **settings)


def draw(recipe: Sdxl, request: SdxlRequest, *given: Image.Image, recorded: RecordedRun | None = None) -> list[ImageOutput]:
    """The images of a job, with its references in the order of their fields."""
    return image_outputs(generate(recipe, request, recorded, dict(zip(request.references, given, strict=True))))


def pixels(recipe: Sdxl, request: SdxlRequest, *given: Image.Image) -> Pixels:
    return draw(recipe, request, *given)[0].pixels


def direct(models: Path, kind: Any = StableDiffusionXLInpaintPipeline, scheduler: str | None = None, **parts: Any) -> Any:
    plain = load_sdxl(models / "sdxl", torch.device("cpu"), torch.float32)
    if scheduler is not None:
        config = next(config for name, config in SCHEDULERS.items() if name == scheduler)
        parts["scheduler"] = getattr(diffusers, config.class_name).from_config(plain.scheduler.config, **config.overrides)
    made = kind(**plain.components | parts)
    made.set_progress_bar_config(disable=True)
    made.vae.enable_slicing()
    return made


def expected(made: Any, reference: Image.Image, mask: Image.Image, *, count: int = 1, strength: float = 0.6, **call: Any) -> list[Pixels]:
    """The images of diffusers, which takes the reference once per image of a batch."""
    noise = [torch.Generator().manual_seed(7 + index) for index in range(count)]
    with torch.inference_mode():
        drawn = made(
            PROMPT,
            negative_prompt="",
            image=[reference] * count,
            mask_image=[mask] * count,
            strength=strength,
            width=64,
            height=64,
            num_inference_steps=10,
            guidance_scale=2.0,
            num_images_per_prompt=count,
            generator=noise,
            output_type="np",
            **call,
        ).images
    return [(one * 255).round().astype(np.uint8) for one in drawn]


@pytest.mark.parametrize(
    ("scheduler", "strength", "count"),
    [(None, 0.6, 1), (None, 1.0, 1), (None, 0.6, 3), ("euler_a", 0.6, 1), ("heun", 0.6, 1), ("dpmpp_2m_sde_karras", 0.9, 1)],
)
def test_the_masked_part_equals_diffusers_bit_for_bit(
    sdxl_recipe: Sdxl, tiny_models: Path, reference: Image.Image, scheduler: str | None, strength: float, count: int
) -> None:
    made = expected(direct(tiny_models, scheduler=scheduler), reference, mask(), count=count, strength=strength)
    config: dict[str, Any] = {"num_images": count} | ({"scheduler": scheduler} if scheduler else {})
    drawn = draw(sdxl_recipe, request_with(denoise=strength, **config), reference, mask())
    assert len(drawn) == count
    for one, other in zip(drawn, made, strict=True):
        assert np.array_equal(one.pixels[:, :32], other[:, :32])


def test_the_unmasked_part_is_the_reference_bit_for_bit(sdxl_recipe: Sdxl, reference: Image.Image) -> None:
    drawn, before = pixels(sdxl_recipe, request_with(denoise=1.0), reference, mask()), np.asarray(reference)
    assert np.array_equal(drawn[:, 32:], before[:, 32:])
    assert (drawn[:, :32] != before[:, :32]).mean() > 0.9
    assert np.array_equal(pixels(sdxl_recipe, request_with(), reference, mask(0)), before)


def test_grey_blends_the_generated_image_and_the_reference(sdxl_recipe: Sdxl, reference: Image.Image) -> None:
    grey = Image.new("RGB", (64, 64), (153, 153, 153))
    inpainted, blended = (pixels(sdxl_recipe, request_with(), reference, each).astype(float) for each in (mask(1.0), grey))
    assert np.abs(blended - (0.6 * inpainted + 0.4 * np.asarray(reference))).max() <= 1


def test_image_i_of_a_batch_equals_a_single_image_with_its_seed(sdxl_recipe: Sdxl, reference: Image.Image) -> None:
    batch = draw(sdxl_recipe, request_with(num_images=3), reference, mask())
    for one in batch:
        alone = pixels(sdxl_recipe, request_with(seed=one.seed), reference, mask())
        difference = np.abs(one.pixels.astype(int) - alone)
        assert difference.max() <= 1
        assert (difference > 0).mean() <= 1e-3


def test_reference_and_mask_are_centre_cropped_alike(sdxl_recipe: Sdxl, reference: Image.Image) -> None:
    wide, wide_mask = (
        Image.fromarray(np.concatenate([np.zeros_like(middle), middle, np.zeros_like(middle)], axis=1))
        for middle in (np.asarray(reference), np.asarray(mask()))
    )
    assert np.array_equal(pixels(sdxl_recipe, request_with(), wide, wide_mask), pixels(sdxl_recipe, request_with(), reference, mask()))


@pytest.mark.parametrize("size", [(96, 96), (64, 256), (192, 96), (400, 50)])
def test_mask_of_another_shape_covers_the_reference_as_a_whole(sdxl_recipe: Sdxl, reference: Image.Image, size: tuple[int, int]) -> None:
    wide = Image.new("RGB", (128, 64))
    wide.paste(reference, (32, 0))
    drawn = pixels(sdxl_recipe, request_with(), wide, mask(3 / 8, size))  # columns 0 … 15 of the middle
    before = np.asarray(reference)
    assert np.array_equal(drawn[:, 24:], before[:, 24:])
    assert (drawn[:, :12] != before[:, :12]).mean() > 0.9


def test_the_payload_reports_method_mode_and_strength(sdxl_recipe: Sdxl, reference: Image.Image) -> None:
    recorded = RecordedRun()
    (drawn,) = draw(sdxl_recipe, request_with(steps=12, denoise=0.5), reference, mask(), recorded=recorded)
    assert (drawn.metadata["steps"], drawn.metadata["denoise_strength"], len(recorded.steps)) == (6, 0.5, 6)
    summary = sdxl_recipe.summarize(request_with(), []).metadata
    assert (summary["reference_mode"], summary["reference_method"], summary["denoise_strength"]) == ("modify", "inpaint", 0.6)
    assert sdxl_recipe.summarize(request_with(denoise=0.0), []).warnings != ()


def test_a_strength_of_zero_runs_one_step(sdxl_recipe: Sdxl, reference: Image.Image) -> None:
    recorded = RecordedRun()
    (drawn,) = draw(sdxl_recipe, request_with(denoise=0.0), reference, mask(), recorded=recorded)
    assert len(recorded.steps) == drawn.metadata["steps"] == 1


def test_the_masked_part_shows_the_prompt_and_the_rest_the_reference(small_models: Path, reference: Image.Image) -> None:
    trained = load(Settings(models_dir=small_models, device="cpu"))
    drawn = pixels(trained, request_with("a green square at the left, blue background", denoise=1.0, steps=20), reference, mask(0.75))
    assert (classify(drawn).color, classify(drawn).place, classify(drawn).background) == ("green", "left", "blue")
    assert np.array_equal(drawn[:, 48:], np.asarray(reference)[:, 48:])


def test_controlnets_with_inpainting_equal_diffusers_bit_for_bit(small_models: Path, reference: Image.Image) -> None:
    trained = load(Settings(models_dir=small_models, device="cpu"))
    network = ControlNetModel.from_pretrained(small_models / "controlnets/canny", dtype=torch.float32).requires_grad_(False)
    hint = Image.fromarray(np.random.default_rng(0).integers(0, 2, (64, 64, 1), np.uint8).repeat(3, 2) * 255)
    made = direct(small_models, StableDiffusionXLControlNetInpaintPipeline, controlnet=[network])
    call: dict[str, Any] = {"control_image": [hint], "controlnet_conditioning_scale": [0.7], "control_guidance_end": [0.8]}
    (inpainted,) = expected(made, reference, mask(), **call)
    control = {"kind": "canny", "image": URL, "prepared": True, "strength": 0.7, "until": 0.8}
    drawn = pixels(trained, request_with(controls=[control]), reference, mask(), hint)
    assert np.array_equal(drawn[:, :32], inpainted[:, :32])
    assert not np.array_equal(drawn, pixels(trained, request_with(), reference, mask()))


def test_loras_and_adapters_affect_the_masked_part(tiny_models: Path, tmp_path: Path, reference: Image.Image) -> None:
    from tests.handlers.sdxl.files import write_image_encoder, write_ip_adapter

    plain = load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32)
    write_lora(tmp_path / "loras/ink.safetensors", plain, "kohya")
    write_image_encoder(tmp_path / "ip_adapters/image_encoder")
    write_ip_adapter(tmp_path / "ip_adapters/style.safetensors", plain)
    recipe = SdxlRecipe(plain, AddonLibrary(tmp_path))
    drawn = [
        pixels(recipe, request_with(), reference, mask()),
        pixels(recipe, request_with(loras=[{"name": "ink"}]), reference, mask()),
        pixels(recipe, request_with(references=[{"image": URL}]), reference, mask(), reference),
    ]
    assert len({one.tobytes() for one in drawn}) == 3
    assert all(np.array_equal(one[:, 32:], np.asarray(reference)[:, 32:]) for one in drawn)


def test_the_refiner_cannot_be_combined_with_a_mask() -> None:
    with pytest.raises(ValidationError, match=r"config\.refiner.*config\.mask"):
        inpaint.check(request_with(refiner={"switch_at": 0.5}), AddonLibrary(Path("nowhere")))


def test_inpainting_keeps_the_vae_in_float32(tiny_models: Path, reference: Image.Image) -> None:
    half = load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float16)
    before = {name: tensor.clone() for name, tensor in half.vae.named_parameters()}
    draw(SdxlRecipe(half, AddonLibrary(tiny_models)), request_with(), reference, mask())
    assert (half.vae.dtype, half.unet.dtype) == (torch.float32, torch.float16)
    assert all(torch.equal(tensor, before[name]) for name, tensor in half.vae.named_parameters())


def test_inpainting_does_not_affect_later_jobs(sdxl_recipe: Sdxl, reference: Image.Image) -> None:
    before = pixels(sdxl_recipe, sdxl())
    draw(sdxl_recipe, request_with(), reference, mask())
    with pytest.raises(Cancelled):
        draw(sdxl_recipe, request_with(denoise=1.0), reference, mask(), recorded=RecordedRun(stop_at=2))
    assert np.array_equal(pixels(sdxl_recipe, sdxl()), before)
