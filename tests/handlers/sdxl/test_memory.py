"""Pictures are made together as far as there is memory, and in smaller batches where there is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from builder.weights.sdxl_memory import bytes_per_latent_pixel
from handlers.sdxl import memory
from handlers.sdxl.memory import Need, micro_batches
from handlers.sdxl.pipeline import staged
from handlers.sdxl.postprocess.rrdbnet import Form
from handlers.sdxl.prompts import embed
from handlers.sdxl.recipe import SdxlRecipe, draw
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.load import load_sdxl
from shared.errors import OutOfMemory
from shared.jobs.recipe import Picture
from shared.weights.addons import Shelf
from tests.handlers.conftest import Watched, make, pictures, sdxl
from tests.handlers.sdxl.files import write_upscaler

URL = "https://a.example/b.png"


def recipe_with(free: int, tiny_models: Path) -> SdxlRecipe:
    pipeline = load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32)
    return SdxlRecipe(pipeline, Shelf(tiny_models), free=lambda _device: free)


def draw_in(recipe: SdxlRecipe, most: int, request: SdxlRequest, watched: Watched | None = None) -> list[Picture]:
    references = {"metadata.reference_image_url": Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))}
    with torch.inference_mode(), staged(recipe._pipeline, request, references, recipe._shelf, request.reference_method) as stage:
        embeddings = embed(stage.pipeline, request.phrases, request.negative_phrases, request.clip_skip)
        return pictures(list(draw(stage, request, embeddings, most, (watched or Watched()).run)))


@pytest.mark.parametrize("config", [{}, {"image": URL, "denoise_strength": 0.5}], ids=["text", "image"])
def test_batches_of_every_size_make_the_same_pictures(sdxl_recipe: SdxlRecipe, config: dict[str, Any]) -> None:
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


def test_one_by_one_each_is_the_single_picture_bit_for_bit(sdxl_recipe: SdxlRecipe) -> None:
    for picture in draw_in(sdxl_recipe, 1, sdxl(num_images=3)):
        (alone,) = pictures(make(sdxl_recipe, sdxl(seed=picture.seed)))
        assert np.array_equal(picture.pixels, alone.pixels)


def test_the_memory_that_is_free_decides(tiny_models: Path) -> None:
    need = Need(64, 64, unet_bytes=4)
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
def test_batches_are_as_equal_as_can_be(count: int, most: int, sizes: list[int]) -> None:
    batches = list(micro_batches(count, most))
    assert [batch.stop - batch.start for batch in batches] == sizes
    assert [index for batch in batches for index in range(batch.start, batch.stop)] == list(range(count))


def test_a_picture_that_cannot_fit_is_refused_before_any_step_with_a_size_that_would(tiny_models: Path) -> None:
    need, watched = Need(1024, 1024, unet_bytes=4), Watched()
    recipe = recipe_with(need.denoising // 2, tiny_models)
    with pytest.raises(
        OutOfMemory, match=r"1024 × 1024 needs 0\.8 GB beside the model, and 0\.4 GB can be had\. Ask for (\d+)x"
    ) as refused:
        make(recipe, sdxl(resolution="1024x1024"), watched)
    assert watched.steps == []
    side = int(refused.value.message.split("Ask for ")[1].split("x")[0])
    assert side >= 640
    assert Need(side, side, unet_bytes=4).denoising <= need.denoising // 2
    with pytest.raises(OutOfMemory, match="Ask the operator for a larger GPU"):
        make(recipe_with(-(10**9), tiny_models), sdxl())


def test_remedies_count_before_a_picture_is_refused() -> None:
    plain, tile = Need(2048, 2048), Need(1024, 1024).decoding
    assert Need(2048, 2048, encoders=plain.denoising, unet=tile).most_at_once(3, 10) == 1
    with pytest.raises(OutOfMemory, match=r"needs 1\.7 GB"):
        Need(2048, 2048, encoders=plain.denoising - 20, unet=tile).most_at_once(3, 10)
    assert Need(2048, 2048, unet=tile).most_at_once(1, plain.denoising) == 1
    with pytest.raises(OutOfMemory, match=r"needs 4\.0 GB beside the model, and 3\.9 GB can be had\. Ask for 960x960") as refused:
        Need(2048, 2048, unet=int(3.9e9) - plain.denoising).most_at_once(1, plain.denoising)
    assert Need(960, 960, unet=int(3.9e9) - plain.denoising).most_at_once(1, plain.denoising) >= 1, refused.value.message


def test_what_is_kept_for_later_jobs_makes_room_before_a_picture_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    write_upscaler(tmp_path / "upscalers/two.safetensors", Form(2, 8, 4, 1))
    need, shelf = Need(64, 64, unet_bytes=4), Shelf(tmp_path)

    def free(_device: torch.device) -> int:
        return need.alone - shelf._kept.size

    recipe = SdxlRecipe(load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32), shelf, free=free)
    (larger,) = pictures(make(recipe, sdxl(upscale={"factor": 2})))
    assert shelf._kept.size > 0
    (plain,) = pictures(make(recipe, sdxl()))
    assert shelf._kept.size == 0
    assert (larger.pixels.shape, plain.pixels.shape) == ((128, 128, 3), (64, 64, 3))


def test_what_needs_more_memory_counts_more() -> None:
    plain = Need(1024, 1024)
    assert Need(1024, 1024, guided=False).denoising * 2 == plain.denoising
    assert Need(2048, 1024).denoising == 2 * plain.denoising
    assert Need(1024, 1024, controlled=True).denoising > plain.denoising
    assert Need(1024, 1024, refined=True).denoising > plain.denoising
    assert Need(1024, 1024, vae_bytes=2).decoding * 2 == plain.decoding
    assert plain.most_at_once(6, 10 * 10**9) == 6
    unguarded = Need(1024, 1024, vae_bytes=2)
    assert unguarded.most_at_once(6, unguarded.decoding) == 4


@pytest.mark.slow
def test_the_table_of_memory_is_that_of_the_published_networks() -> None:
    computed = bytes_per_latent_pixel()
    assert computed["unet"] == pytest.approx(memory.UNET, rel=0.001)
    assert computed["refiner"] == pytest.approx(memory.REFINER, rel=0.001)
    assert computed["decode"] == pytest.approx(memory.DECODER, rel=0.001)
    assert computed["controlnet"] < memory.UNET + memory.CONTROLS
    assert computed["encode"] < memory.DECODER
