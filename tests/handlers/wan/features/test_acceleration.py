"""Accelerations apply only to the job that requests them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.wan.decoding import decode_memory, decode_with_fallbacks
from handlers.wan.features.acceleration import accelerated, fused_projections_size
from handlers.wan.features.lora import lora_target
from handlers.wan.features.step_caches import STEP_CACHES
from handlers.wan.recipe import WanRecipe
from handlers.wan.request import WanRequest
from handlers.wan.weights.load import WanPipelines, load_wan
from shared.errors import Cancelled
from shared.models.lora_files import Lora
from shared.models.lora_updates import LayerUpdate
from shared.models.loras import merged
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


@pytest.mark.parametrize("references", [False, True], ids=["text", "reference"])
@pytest.mark.parametrize("loras", [False, True], ids=["plain", "lora"])
def test_fused_projections_are_equivalent_and_are_removed(tiny_models: Path, references: bool, loras: bool) -> None:
    pipelines = load_wan(tiny_models / "wan", torch.device("cpu"), torch.float32)
    pipeline = pipelines.vace if references else pipelines.text_to_video
    names = {name for name, _ in pipeline.transformer.named_modules()}
    with with_lora(pipelines, 0.5 if loras else 0.0):
        before = latents(pipeline)
        with accelerated(pipeline.transformer, ("fused_projections",), 2):
            assert {name for name, _ in pipeline.transformer.named_modules()} > names
            fused = latents(pipeline)
        assert torch.equal(latents(pipeline), before)
    assert (fused - before).abs().max() <= 2e-6 * before.abs().max()
    assert {name for name, _ in pipeline.transformer.named_modules()} == names
    if loras:
        assert not torch.allclose(latents(pipeline), before)


@contextmanager
def with_lora(pipelines: WanPipelines, scale: float) -> Iterator[None]:
    """Merges a LoRA into a layer that will be fused."""
    layer = ("transformer", "blocks.0.attn1.to_q")
    down, up = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((2, 48), (48, 2)))
    lora = Lora({layer: LayerUpdate("LoRA", {"down": down, "up": up})})
    with merged(lora_target(pipelines), [(lora, scale)] if scale else []):
        yield


def latents(pipeline: Any) -> torch.Tensor:
    with torch.inference_mode():
        made: torch.Tensor = pipeline(
            "a cat",
            height=64,
            width=64,
            num_frames=5,
            num_inference_steps=2,
            output_type="latent",
            generator=torch.Generator().manual_seed(1),
        ).frames
    return made


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiled_blocks_are_equivalent_with_and_without_a_lora(tiny_models: Path) -> None:
    pipelines = load_wan(tiny_models / "wan", torch.device("cpu"), torch.float32)
    pipeline = pipelines.text_to_video
    for scale in (0.0, 0.5):
        with with_lora(pipelines, scale):
            before = latents(pipeline)
            with accelerated(pipeline.transformer, ("fused_projections", "cudnn_attention", "compiled_blocks"), 2):
                compiled = latents(pipeline)
            assert torch.equal(latents(pipeline), before)
        assert not torch.equal(compiled, before)  # rounding differs: it was compiled
        assert (compiled - before).abs().max() <= 1e-5 * before.abs().max()


def test_an_acceleration_that_fails_to_apply_is_removed(tiny_models: Path) -> None:
    transformer = load_wan(tiny_models / "wan", torch.device("cpu"), torch.float32).text_to_video.transformer

    def fail() -> None:
        with accelerated(transformer, ("fused_projections", "compiled_blocks"), 2):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not any(getattr(module, "fused_projections", False) or module._compiled_call_impl for module in transformer.modules())


def test_lossless_has_no_effect_on_a_cpu_and_adds_a_warning(recipe: WanRecipe) -> None:
    request_ = request("lossless")
    outputs = generate(recipe, request_)
    assert np.array_equal(np.stack(list(clip(outputs).frames)), frames_of(recipe, "none"))
    assert (outputs[0].metadata["acceleration"], outputs[0].metadata["accelerated_by"]) == ("lossless", [])
    assert recipe.summarize(request_, outputs).warnings == ["`config.acceleration` has no effect on this worker's device; got lossless"]


def test_projections_are_fused_only_if_the_copy_fits(recipe: WanRecipe) -> None:
    transformer = recipe._pipelines.text_to_video.transformer
    layers = [layer for name, layer in transformer.named_modules() if name.endswith(("to_q", "to_k", "to_v"))]
    assert fused_projections_size(transformer) == sum(layer.weight.nbytes for layer in layers) > 0


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
