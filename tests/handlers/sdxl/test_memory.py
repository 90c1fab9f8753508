"""Pictures are made together as far as there is memory, and in smaller batches where there is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.sdxl_memory import bytes_per_latent_pixel
from handlers.sdxl import memory
from handlers.sdxl.memory import MemoryEstimate, micro_batches
from handlers.sdxl.pipeline import configured
from handlers.sdxl.postprocess.rrdbnet import Form
from handlers.sdxl.prompts import encode_prompts
from handlers.sdxl.recipe import SdxlRecipe, draw
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.load import load_sdxl
from shared.errors import OutOfMemory
from shared.jobs.recipe import ImageOutput
from shared.weights.addons import AddonLibrary
from tests.handlers.conftest import Watched, make, pictures, sdxl
from tests.handlers.sdxl.files import write_upscaler

URL = "https://a.example/b.png"


def recipe_with(free: int, tiny_models: Path) -> SdxlRecipe:
    pipeline = load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32)
    return SdxlRecipe(pipeline, AddonLibrary(tiny_models), free=lambda _device: free)


def draw_in(recipe: SdxlRecipe, most: int, request: SdxlRequest, watched: Watched | None = None) -> list[ImageOutput]:
    references = {"metadata.reference_image_url": Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))}
    with torch.inference_mode(), configured(recipe._pipeline, request, references, recipe._addons, request.reference_method) as stage:
        embeddings = encode_prompts(stage.pipeline, request.weighted_prompt, request.weighted_negative_prompt, request.clip_skip)
        return pictures(list(draw(stage, request, embeddings, most, (watched or Watched()).run)))


@pytest.mark.parametrize("config", [{}, {"image": URL, "denoise_strength": 0.5}], ids=["text", "image"])
def test_images_do_not_depend_on_the_batch_size(sdxl_recipe: SdxlRecipe, config: dict[str, Any]) -> None:
    """Nearly: kernels sum in another order for another batch, so a few values in ten thousand round the other way, by one level."""
    request, steps = sdxl(num_images=6, **config), 5 if config else 10
    together = draw_in(sdxl_recipe, 6, request)
    for most, calls in ((6, 1), (5, 2), (2, 3), (1, 6)):
        watched = Watched()
        apart = draw_in(sdxl_recipe, most, request, watched)
        assert watched.steps == [(step, steps * calls) for step in range(1, steps * calls + 1)], most
        assert [picture.seed for picture in apart] == [7, 8, 9, 10, 11, 12]
        for one, other in zip(together, apart, strict=True):
            difference = np.abs(one.pixels.astype(int) - other.pixels.astype(int))
            assert difference.max() <= 1, most
            assert (difference > 0).mean() <= 5e-4, most


def test_batches_of_one_equal_single_image_jobs_bit_for_bit(sdxl_recipe: SdxlRecipe) -> None:
    for picture in draw_in(sdxl_recipe, 1, sdxl(num_images=3)):
        (alone,) = pictures(make(sdxl_recipe, sdxl(seed=picture.seed)))
        assert np.array_equal(picture.pixels, alone.pixels)


def test_free_memory_determines_the_batch_size(tiny_models: Path) -> None:
    need = MemoryEstimate(64, 64, unet_itemsize=4)
    assert need.decoding // need.denoising == 4
    watched = Watched()
    make(recipe_with(need.decoding, tiny_models), sdxl(num_images=6), watched)
    assert watched.steps[-1] == (20, 20)
    watched = Watched()
    make(recipe_with(need.denoising, tiny_models), sdxl(num_images=3), watched)
    assert watched.steps[-1] == (30, 30)
    watched = Watched()
    make(recipe_with(6 * need.denoising, tiny_models), sdxl(num_images=6), watched)
    assert watched.steps[-1] == (10, 10)


@pytest.mark.parametrize(
    ("count", "most", "sizes"), [(6, 6, [6]), (6, 9, [6]), (6, 5, [3, 3]), (6, 4, [3, 3]), (6, 2, [2, 2, 2]), (3, 2, [2, 1]), (1, 1, [1])]
)
def test_batches_are_as_equal_as_possible(count: int, most: int, sizes: list[int]) -> None:
    batches = list(micro_batches(count, most))
    assert [batch.stop - batch.start for batch in batches] == sizes
    assert [index for batch in batches for index in range(batch.start, batch.stop)] == list(range(count))


def test_an_image_that_cannot_fit_is_refused_before_any_step_with_a_size_that_fits(tiny_models: Path) -> None:
    need, watched = MemoryEstimate(1024, 1024, unet_itemsize=4), Watched()
    recipe = recipe_with(need.denoising // 2, tiny_models)
    with pytest.raises(
        OutOfMemory, match=r"1024 × 1024 needs 0\.8 GB beside the model, and 0\.4 GB can be had\. Ask for (\d+)x"
    ) as refused:
        make(recipe, sdxl(resolution="1024x1024"), watched)
    assert watched.steps == []
    side = int(refused.value.message.split("Ask for ")[1].split("x")[0])
    assert side >= 640
    assert MemoryEstimate(side, side, unet_itemsize=4).denoising <= need.denoising // 2
    with pytest.raises(OutOfMemory, match="Ask the operator for a larger GPU"):
        make(recipe_with(-(10**9), tiny_models), sdxl())


def test_offloading_and_tiling_are_taken_into_account_before_an_image_is_refused() -> None:
    plain, tile = MemoryEstimate(2048, 2048), MemoryEstimate(1024, 1024).decoding
    assert MemoryEstimate(2048, 2048, text_encoder_weights=plain.denoising, unet_weights=tile).batch_size(3, 10) == 1
    with pytest.raises(OutOfMemory, match=r"needs 1\.7 GB"):
        MemoryEstimate(2048, 2048, text_encoder_weights=plain.denoising - 20, unet_weights=tile).batch_size(3, 10)
    assert MemoryEstimate(2048, 2048, unet_weights=tile).batch_size(1, plain.denoising) == 1
    with pytest.raises(OutOfMemory, match=r"needs 4\.0 GB beside the model, and 3\.9 GB can be had\. Ask for 960x960") as refused:
        MemoryEstimate(2048, 2048, unet_weights=int(3.9e9) - plain.denoising).batch_size(1, plain.denoising)
    assert MemoryEstimate(960, 960, unet_weights=int(3.9e9) - plain.denoising).batch_size(1, plain.denoising) >= 1, refused.value.message


def test_cached_addons_are_dropped_before_an_image_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    write_upscaler(tmp_path / "upscalers/two.safetensors", Form(2, 8, 4, 1))
    need, addons = MemoryEstimate(64, 64, unet_itemsize=4), AddonLibrary(tmp_path)

    def free(_device: torch.device) -> int:
        return need.single_image - addons._kept.size

    recipe = SdxlRecipe(load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32), addons, free=free)
    (larger,) = pictures(make(recipe, sdxl(upscale={"factor": 2})))
    assert addons._kept.size > 0
    (plain,) = pictures(make(recipe, sdxl()))
    assert addons._kept.size == 0
    assert (larger.pixels.shape, plain.pixels.shape) == ((128, 128, 3), (64, 64, 3))


def test_estimates_grow_with_guidance_size_controlnets_refiner_and_precision() -> None:
    plain = MemoryEstimate(1024, 1024)
    assert MemoryEstimate(1024, 1024, guided=False).denoising * 2 == plain.denoising
    assert MemoryEstimate(2048, 1024).denoising == 2 * plain.denoising
    assert MemoryEstimate(1024, 1024, controlled=True).denoising > plain.denoising
    assert MemoryEstimate(1024, 1024, refined=True).denoising > plain.denoising
    assert MemoryEstimate(1024, 1024, vae_itemsize=2).decoding * 2 == plain.decoding
    assert plain.batch_size(6, 10 * 10**9) == 6
    unguarded = MemoryEstimate(1024, 1024, vae_itemsize=2)
    assert unguarded.batch_size(6, unguarded.decoding) == 4


@pytest.mark.slow
def test_the_constants_are_those_of_the_published_networks() -> None:
    computed = bytes_per_latent_pixel()
    assert computed["unet"] == pytest.approx(memory.UNET, rel=0.001)
    assert computed["refiner"] == pytest.approx(memory.REFINER, rel=0.001)
    assert computed["decode"] == pytest.approx(memory.DECODER, rel=0.001)
    assert computed["controlnet"] < memory.UNET + memory.CONTROLS
    assert computed["encode"] < memory.DECODER
