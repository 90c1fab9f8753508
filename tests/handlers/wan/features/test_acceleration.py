"""Accelerations apply only to the job that requests them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.wan.decoding import decode_memory, decode_with_fallbacks
from handlers.wan.features.step_caches import STEP_CACHES
from handlers.wan.recipe import WanRecipe
from handlers.wan.request import WanRequest
from handlers.wan.weights.load import load_wan
from shared.errors import Cancelled
from small_models.training.shapes import Pixels
from small_models.training.wan.classifier import classify_clip
from small_models.training.wan.evaluation import load_recipe
from tests.handlers.conftest import RecordedRun, clip, generate, wan

PROMPT = "a red circle moves to the right on a blue background"


@pytest.fixture(scope="module")
def recipe(small_models: Path) -> WanRecipe:
    loaded = load_recipe(small_models / "wan")
    assert isinstance(loaded, WanRecipe)
    return loaded


def request(acceleration: str) -> WanRequest:
    return wan(PROMPT, steps=20, guidance_scale=3.0, acceleration=acceleration)


def frames_of(recipe: WanRecipe, acceleration: str) -> Pixels:
    return np.stack(list(clip(generate(recipe, request(acceleration))).frames))


@contextmanager
def counted_calls(recipe: WanRecipe) -> Iterator[list[int]]:
    """Counts the calls of the transformer's last block."""
    calls = [0]

    def count(*_: object) -> None:
        calls[0] += 1

    block = recipe._pipelines.text_to_video.transformer.blocks[-1]
    handle = block.attn1.to_out[0].register_forward_hook(count)
    try:
        yield calls
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("cache", "most_calls", "psnr"),
    [("first_block_cache", 35, 42.0), ("mag_cache", 20, 36.0), ("taylorseer_cache", 20, 33.0)],
)
def test_a_cache_skips_calls_keeps_the_content_and_does_not_affect_the_next_job(
    recipe: WanRecipe, cache: str, most_calls: int, psnr: float
) -> None:
    with counted_calls(recipe) as plain:
        whole = frames_of(recipe, "none")
    with counted_calls(recipe) as calls:
        fast = frames_of(recipe, cache)
    assert plain == [40]
    assert calls[0] <= most_calls
    assert psnr < 10 * np.log10(255**2 / ((fast.astype(float) - whole) ** 2).mean()) < np.inf
    assert (
        (classify_clip(fast).color, classify_clip(fast).motion)
        == (classify_clip(whole).color, classify_clip(whole).motion)
        == ("red", "right")
    )
    assert np.array_equal(frames_of(recipe, "none"), whole)


@pytest.mark.parametrize("cache", sorted(STEP_CACHES))
def test_a_cancelled_job_removes_its_cache(recipe: WanRecipe, cache: str) -> None:
    before = frames_of(recipe, "none")
    with pytest.raises(Cancelled):
        generate(recipe, request(cache), RecordedRun(stop_at=7))
    assert np.array_equal(frames_of(recipe, "none"), before)


def test_fast_is_the_first_block_cache(recipe: WanRecipe) -> None:
    assert np.array_equal(frames_of(recipe, "fast"), frames_of(recipe, "first_block_cache"))


@pytest.mark.parametrize("cache", sorted(STEP_CACHES))
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_cache_serves_few_steps_and_references(recipe: WanRecipe, cache: str, steps: int) -> None:
    given = {"config.first_frame": Image.new("RGB", (64, 64), "blue")}
    few = wan(PROMPT, steps=steps, frames=5, acceleration=cache, first_frame="https://a.example/first.png")
    assert len(list(clip(generate(recipe, few, references=given)).frames)) == 5


def test_metadata_lists_the_accelerations(recipe: WanRecipe) -> None:
    (made,) = generate(recipe, request("fast"))
    assert (made.metadata["acceleration"], made.metadata["accelerated_by"]) == ("fast", ["first_block_cache"])


def test_lossless_is_the_default_and_has_no_effect_on_a_cpu(recipe: WanRecipe) -> None:
    by_default = wan(PROMPT, steps=20, guidance_scale=3.0)
    assert by_default.acceleration == "lossless"
    outputs = generate(recipe, by_default)
    assert np.array_equal(np.stack(list(clip(outputs).frames)), frames_of(recipe, "none"))
    assert (outputs[0].metadata["acceleration"], outputs[0].metadata["accelerated_by"]) == ("lossless", [])
    assert recipe.summarize(by_default, outputs).warnings == []


def test_a_worker_that_cannot_accelerate_warns_a_caller_who_asks_for_it(recipe: WanRecipe) -> None:
    asked = request("lossless")
    warnings = recipe.summarize(asked, generate(recipe, asked)).warnings
    assert warnings == ["`config.acceleration` has no effect on this worker's device; got lossless"]
    assert recipe.summarize(request("none"), generate(recipe, request("none"))).warnings == []


def test_a_clip_is_decoded_in_tiles_only_if_the_whole_does_not_fit(tiny_models: Path) -> None:
    vae = load_wan(tiny_models / "wan", torch.device("cpu"), torch.float32).text_to_video.vae
    needed = decode_memory(64, 64)
    latents = torch.randn(1, vae.config.z_dim, 2, 8, 8)
    for free, tiled in ((None, False), (needed, False), (needed - 1, True)):
        frames = decode_with_fallbacks(vae, latents, (), fail, free=free)
        next(frames)
        assert vae.use_tiling is tiled
        frames.close()
        assert not vae.use_tiling
    assert needed < decode_memory(480, 832) / 90


def fail(warning: str) -> None:
    raise AssertionError(warning)
