"""Batch sizes follow from memory estimates."""

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
from handlers.sdxl.prompts import encode_prompts
from handlers.sdxl.recipe import SdxlRecipe, generate_images
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.load import load_sdxl
from shared.errors import OutOfMemory
from shared.jobs.recipe import ImageOutput
from shared.weights.addons import AddonLibrary
from tests.handlers.conftest import RecordedRun, generate, image_outputs, sdxl
from tests.handlers.sdxl.upscalers import esrgan, write_upscaler

URL = "https://a.example/b.png"


def recipe_with(free: int, tiny_models: Path) -> SdxlRecipe:
    pipeline = load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32)
    return SdxlRecipe(pipeline, AddonLibrary(tiny_models), free_memory=lambda _device: free)


def generate_in_batches(
    recipe: SdxlRecipe, batch_size: int, request: SdxlRequest, recorded: RecordedRun | None = None
) -> list[ImageOutput]:
    references = {"metadata.reference_image_url": Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))}
    with torch.inference_mode(), configured(recipe._pipeline, request, references, recipe._addons) as job:
        embeddings = encode_prompts(job.pipeline, request.weighted_prompt, request.weighted_negative_prompt, request.clip_skip)
        return image_outputs(list(generate_images(job, request, embeddings, batch_size, (recorded or RecordedRun()).run)))


@pytest.mark.parametrize("config", [{}, {"image": URL, "denoise_strength": 0.5}], ids=["text", "image"])
def test_images_do_not_depend_on_the_batch_size(sdxl_recipe: SdxlRecipe, config: dict[str, Any]) -> None:
    """Except for rounding: kernels sum in an order that depends on the batch size, so a few values in ten thousand differ by one level."""
    request, steps = sdxl(num_images=6, **config), 5 if config else 10
    together = generate_in_batches(sdxl_recipe, 6, request)
    for batch_size, calls in ((6, 1), (5, 2), (2, 3), (1, 6)):
        recorded = RecordedRun()
        batched = generate_in_batches(sdxl_recipe, batch_size, request, recorded)
        assert recorded.steps == [(step, steps * calls) for step in range(1, steps * calls + 1)], batch_size
        assert [image.seed for image in batched] == [7, 8, 9, 10, 11, 12]
        for one, other in zip(together, batched, strict=True):
            difference = np.abs(one.pixels.astype(int) - other.pixels.astype(int))
            assert difference.max() <= 1, batch_size
            assert (difference > 0).mean() <= 5e-4, batch_size


def test_batches_of_one_equal_single_image_jobs_bit_for_bit(sdxl_recipe: SdxlRecipe) -> None:
    for image in generate_in_batches(sdxl_recipe, 1, sdxl(num_images=3)):
        (alone,) = image_outputs(generate(sdxl_recipe, sdxl(seed=image.seed)))
        assert np.array_equal(image.pixels, alone.pixels)


def test_free_memory_determines_the_batch_size(tiny_models: Path) -> None:
    estimate = MemoryEstimate(64, 64, unet_itemsize=4, vae_itemsize=4)
    assert estimate.decoding // estimate.denoising == 4
    recorded = RecordedRun()
    generate(recipe_with(estimate.decoding, tiny_models), sdxl(num_images=6), recorded)
    assert recorded.steps[-1] == (20, 20)
    recorded = RecordedRun()
    generate(recipe_with(estimate.denoising, tiny_models), sdxl(num_images=3), recorded)
    assert recorded.steps[-1] == (30, 30)
    recorded = RecordedRun()
    generate(recipe_with(6 * estimate.denoising, tiny_models), sdxl(num_images=6), recorded)
    assert recorded.steps[-1] == (10, 10)


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(6, 6, [6]), (6, 9, [6]), (6, 5, [3, 3]), (6, 4, [3, 3]), (6, 2, [2, 2, 2]), (3, 2, [2, 1]), (1, 1, [1])],
)
def test_batches_are_as_equal_as_possible(count: int, batch_size: int, sizes: list[int]) -> None:
    batches = list(micro_batches(count, batch_size))
    assert [batch.stop - batch.start for batch in batches] == sizes
    assert [index for batch in batches for index in range(batch.start, batch.stop)] == list(range(count))


def test_an_image_that_cannot_fit_is_refused_before_any_step_with_a_size_that_fits(tiny_models: Path) -> None:
    estimate, recorded = MemoryEstimate(1024, 1024, unet_itemsize=4), RecordedRun()
    recipe = recipe_with(estimate.denoising // 2, tiny_models)
    with pytest.raises(
        OutOfMemory, match=r"1024 × 1024 needs 0\.8 GB in addition to the model; 0\.4 GB is available\. Request (\d+)x"
    ) as refused:
        generate(recipe, sdxl(resolution="1024x1024"), recorded)
    assert recorded.steps == []
    side = int(refused.value.message.split("Request ")[1].split("x")[0])
    assert side >= 640
    assert MemoryEstimate(side, side, unet_itemsize=4).denoising <= estimate.denoising // 2
    with pytest.raises(OutOfMemory, match="Ask the operator for a larger GPU"):
        generate(recipe_with(-(10**9), tiny_models), sdxl())


def test_offloading_and_tiling_are_taken_into_account_before_an_image_is_refused() -> None:
    plain, tile = MemoryEstimate(2048, 2048), MemoryEstimate(512, 512).decoding
    assert MemoryEstimate(2048, 2048, text_encoder_weights=plain.denoising, unet_weights=tile).batch_size(3, 10) == 1
    with pytest.raises(OutOfMemory, match=r"needs 1\.7 GB"):
        MemoryEstimate(2048, 2048, text_encoder_weights=plain.denoising - 20, unet_weights=tile).batch_size(3, 10)
    assert MemoryEstimate(2048, 2048).batch_size(1, plain.denoising) == 1, "tiles need less than denoising"
    assert MemoryEstimate(1024, 1024, guided=False, unet_weights=tile - 3 * 10**8).batch_size(1, 3 * 10**8) == 1
    with pytest.raises(OutOfMemory, match=r"needs 0\.5 GB in addition to the model; 0\.4 GB is available\. Request 448x448"):
        MemoryEstimate(1024, 1024, guided=False, unet_weights=10**8).batch_size(1, 3 * 10**8)
    assert MemoryEstimate(448, 448, guided=False, unet_weights=10**8).batch_size(1, 3 * 10**8) == 1


def test_cached_addons_are_dropped_before_an_image_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    write_upscaler(tmp_path / "upscalers/two.safetensors", esrgan(2, blocks=1))
    estimate, addons = MemoryEstimate(64, 64, unet_itemsize=4, vae_itemsize=4), AddonLibrary(tmp_path)

    def free(_device: torch.device) -> int:
        return estimate.single_image - int(addons._cache.currsize)

    recipe = SdxlRecipe(load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32), addons, free_memory=free)
    (larger,) = image_outputs(generate(recipe, sdxl(upscale={"factor": 2})))
    assert addons._cache.currsize > 0
    (plain,) = image_outputs(generate(recipe, sdxl()))
    assert addons._cache.currsize == 0
    assert (larger.pixels.shape, plain.pixels.shape) == ((128, 128, 3), (64, 64, 3))


@pytest.mark.parametrize(
    ("config", "encodes"),
    [({}, False), ({"image": URL, "denoise_strength": 0.5}, False), ({"image": URL, "mask": URL}, True)],
    ids=["text", "img2img, encoded already", "inpainting"],
)
def test_a_reference_that_is_still_to_be_encoded_counts(sdxl_recipe: SdxlRecipe, config: dict[str, Any], *, encodes: bool) -> None:
    estimate = MemoryEstimate.of(sdxl(**config), sdxl_recipe._pipeline)
    assert (estimate.encoding > 0) is encodes


def test_estimates_grow_with_guidance_size_controlnets_refiner_and_precision() -> None:
    plain = MemoryEstimate(1024, 1024)
    assert MemoryEstimate(1024, 1024, guided=False).denoising * 2 == plain.denoising
    assert MemoryEstimate(2048, 1024).denoising == 2 * plain.denoising
    assert MemoryEstimate(1024, 1024, controlled=True).denoising > plain.denoising
    assert MemoryEstimate(1024, 1024, refined=True).denoising > plain.denoising
    assert MemoryEstimate(1024, 1024, vae_itemsize=4).decoding == 2 * plain.decoding
    assert plain.encoding == 0
    assert MemoryEstimate(1024, 1024, encodes=True).single_image == MemoryEstimate(1024, 1024, encodes=True).encoding > plain.decoding
    assert plain.batch_size(6, 10 * 10**9) == 6
    assert plain.batch_size(6, plain.decoding) == 4


@pytest.mark.slow
def test_the_constants_are_those_of_the_published_networks() -> None:
    computed = bytes_per_latent_pixel()
    assert computed["unet"] == pytest.approx(memory.UNET, rel=0.001)
    assert computed["refiner"] == pytest.approx(memory.REFINER, rel=0.001)
    assert computed["decode"] == pytest.approx(memory.DECODER, rel=0.001)
    assert computed["controlnet"] < memory.UNET + memory.CONTROLS
    assert computed["encode"] == pytest.approx(memory.ENCODER, rel=0.001)
