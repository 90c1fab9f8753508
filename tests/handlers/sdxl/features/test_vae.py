"""Replacement VAEs, compared with diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLImg2ImgPipeline
from PIL import Image
from safetensors.torch import save_file

from handlers.sdxl.decoding import decoder_dtype
from handlers.sdxl.handler import load
from handlers.sdxl.recipe import SdxlRecipe
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.load import load_sdxl
from handlers.sdxl.weights.vae_files import load_vae
from handlers.sdxl.weights.vae_precision import upcast_decoder
from shared.errors import Cancelled, ModelUnavailable
from shared.jobs.recipe import Recipe
from shared.media.images import Pixels
from shared.settings import Settings
from shared.weights.addons import AddonLibrary
from tests.handlers.conftest import RecordedRun, generate, image_outputs, sdxl
from tests.handlers.sdxl.files import to_original_layout, write_vae

CPU = torch.device("cpu")
REFERENCE = "metadata.reference_image_url"
FORMATS = ("folder", "original", "whole checkpoint", "diffusers")


@pytest.fixture(scope="module")
def vaes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    addons = tmp_path_factory.mktemp("addons") / "vaes"
    tensors = write_vae(addons / "folder")
    write_vae(addons / "safe", overflows=False)
    save_file(to_original_layout(tensors, ""), addons / "original.safetensors")
    save_file(to_original_layout(tensors, "first_stage_model."), addons / "whole checkpoint.safetensors")
    save_file(tensors, addons / "diffusers.safetensors")
    save_file({"decoder.conv_in.bias": torch.zeros(3)}, addons / "foreign.safetensors")
    (addons / "damaged.safetensors").write_bytes(b"no tensors")
    AutoencoderKL(block_out_channels=(32,), latent_channels=4).save_pretrained(addons / "other latents")
    write_vae(addons / "of SD 1.5")
    rewrite(addons / "of SD 1.5" / "config.json", scaling_factor=0.18215)
    write_vae(addons / "shifted")
    rewrite(addons / "shifted" / "config.json", shift_factor=0.1159)
    return addons


@pytest.fixture(scope="module")
def recipe(tiny_models: Path, vaes: Path) -> Recipe[SdxlRequest]:
    return load(Settings(models_dir=vaes.parent, sdxl_model=tiny_models / "sdxl", device="cpu"))


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def draw(recipe: Recipe[SdxlRequest], recorded: RecordedRun | None = None, reference: Image.Image | None = None, **config: Any) -> Pixels:
    image: dict[str, Any] = {} if reference is None else {"image": "https://a.example/b.png", "denoise_strength": 0.5}
    references = {} if reference is None else {REFERENCE: reference}
    return image_outputs(generate(recipe, sdxl(**image, **config), recorded, references))[0].pixels


def pipeline_with(tiny_models: Path, vaes: Path) -> Any:
    pipeline = load_sdxl(tiny_models / "sdxl", CPU, torch.float32)
    pipeline.vae = AutoencoderKL.from_pretrained(vaes / "folder").requires_grad_(False).eval()
    return pipeline


CALL: dict[str, Any] = {"negative_prompt": "", "num_inference_steps": 10, "guidance_scale": 6.0, "output_type": "np"}


@pytest.mark.parametrize("format_", FORMATS)
def test_a_vae_decodes_as_in_diffusers_from_every_file_format(
    recipe: Recipe[SdxlRequest], tiny_models: Path, vaes: Path, format_: str
) -> None:
    direct, noise = pipeline_with(tiny_models, vaes), torch.Generator().manual_seed(7)
    with torch.inference_mode():
        (expected,) = direct("a red circle", width=64, height=64, generator=noise, **CALL).images
    drawn = draw(recipe, vae=format_)
    # Kernels round differently for tensors with the memory layout of the file.
    difference = np.abs(drawn.astype(int) - (expected * 255).round().astype(int))
    assert difference.max() <= (0 if format_ == "folder" else 1)
    assert not np.array_equal(drawn, draw(recipe))


def test_a_vae_encodes_references_as_in_diffusers_bit_for_bit(recipe: Recipe[SdxlRequest], tiny_models: Path, vaes: Path) -> None:
    reference = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    direct = StableDiffusionXLImg2ImgPipeline(**pipeline_with(tiny_models, vaes).components)
    direct.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        noise = torch.Generator().manual_seed(7)
        (expected,) = direct("a red circle", image=reference, strength=0.5, generator=noise, **CALL).images
    assert np.array_equal(draw(recipe, reference=reference, vae="folder"), (expected * 255).round().astype(np.uint8))


def test_a_vae_does_not_affect_later_jobs(recipe: Recipe[SdxlRequest]) -> None:
    before = draw(recipe)
    draw(recipe, vae="folder")
    with pytest.raises(Cancelled):
        draw(recipe, RecordedRun(stop_at=3), vae="folder")
    assert np.array_equal(draw(recipe), before)


def test_a_vae_that_overflows_in_half_precision_encodes_in_float32(vaes: Path) -> None:
    own = AutoencoderKL.load_config(vaes / "folder")

    def precisions(name: str, dtype: torch.dtype) -> tuple[torch.dtype, torch.dtype]:
        vae = load_vae(vaes / name, own, name=name, device=CPU, dtype=dtype)
        return vae.dtype, decoder_dtype(vae)

    assert precisions("folder", torch.float16) == (torch.float32, torch.float16)
    assert precisions("safe", torch.float16) == (torch.float16, torch.float16)
    assert precisions("original.safetensors", torch.float16) == (torch.float32, torch.float16)  # a file has no configuration
    assert precisions("original.safetensors", torch.bfloat16) == (torch.bfloat16, torch.bfloat16)


def test_a_vae_that_a_job_has_loaded_can_be_upcast_in_later_jobs(tiny_models: Path, vaes: Path) -> None:
    half = SdxlRecipe(load_sdxl(tiny_models / "sdxl", CPU, torch.float16), AddonLibrary(vaes.parent))
    drawn = draw(half, vae="folder")
    with torch.inference_mode(), upcast_decoder(half._addons.load("vaes", "folder", lambda _: None, lambda _: 0)):
        pass
    assert np.array_equal(draw(half, vae="folder"), drawn)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("foreign", r"tensors are missing from its file, such as 'decoder\.conv_in\.weight'"),
        ("damaged", "its files are damaged, incomplete or of another model"),
        ("other latents", "it was made for latents of another shape"),
        ("of SD 1.5", r"it was made for other latents: its scaling_factor is 0\.18215, and SDXL's is 0\.13025"),
        ("shifted", r"it was made for other latents: its shift_factor is 0\.1159, and SDXL's is None"),
    ],
)
def test_an_unusable_vae_is_refused_with_the_reason(recipe: Recipe[SdxlRequest], vaes: Path, name: str, reason: str) -> None:
    with pytest.raises(ModelUnavailable, match=rf"^VAE '{name}' cannot be used: {reason}") as refused:
        draw(recipe, vae=name)
    assert str(vaes) not in refused.value.message
    assert draw(recipe).shape == (64, 64, 3)


def test_metadata_names_the_vae(recipe: Recipe[SdxlRequest]) -> None:
    (made,) = image_outputs(generate(recipe, sdxl(vae="folder")))
    assert made.metadata["vae"] == "folder"
