"""Ways to be faster act for the job that asks for them, and for no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handlers.wan.decoding import decode_within_memory, needed_to_decode
from handlers.wan.features.acceleration import accelerated, fused_size
from handlers.wan.features.lora import target
from handlers.wan.recipe import WanRecipe
from handlers.wan.request import WanRequest
from handlers.wan.weights.load import WanPipelines, load_wan
from shared.errors import Cancelled
from shared.models.lora_files import Factors
from shared.models.loras import merged
from small_models.training.shapes import Pixels
from small_models.training.wan.check import load_recipe
from small_models.training.wan.detector import read_clip
from tests.handlers.conftest import Watched, clip, make, wan

PROMPT = "a red circle moves to the right on a blue background"


@pytest.fixture(scope="module")
def recipe(small_models: Path) -> WanRecipe:
    loaded = load_recipe(small_models / "wan")
    assert isinstance(loaded, WanRecipe)
    return loaded


def request(acceleration: str) -> WanRequest:
    return wan(PROMPT, steps=20, guidance_scale=3.0, acceleration=acceleration)


def film(recipe: WanRecipe, acceleration: str) -> Pixels:
    return np.stack(list(clip(make(recipe, request(acceleration))).frames))


@contextmanager
def counted(recipe: WanRecipe) -> Iterator[list[int]]:
    """How often the transformer's last block is called."""
    calls = [0]

    def count(*_: object) -> None:
        calls[0] += 1

    block = recipe._pipelines.text.transformer.blocks[-1]
    handle = block.attn1.to_out[0].register_forward_hook(count)
    try:
        yield calls
    finally:
        handle.remove()


def test_fast_calls_the_later_blocks_less_often_and_shows_the_same(recipe: WanRecipe) -> None:
    with counted(recipe) as plain:
        whole = film(recipe, "none")
    with counted(recipe) as calls:
        fast = film(recipe, "fast")
    assert plain == [40]
    assert calls[0] < 36
    assert not np.array_equal(fast, whole)
    assert (read_clip(fast).color, read_clip(fast).motion) == (read_clip(whole).color, read_clip(whole).motion) == ("red", "right")


def test_the_next_job_is_not_accelerated(recipe: WanRecipe) -> None:
    before = film(recipe, "none")
    film(recipe, "fast")
    assert np.array_equal(film(recipe, "none"), before)


def test_a_stopped_job_takes_its_acceleration_off(recipe: WanRecipe) -> None:
    before = film(recipe, "none")
    with pytest.raises(Cancelled):
        make(recipe, request("fast"), Watched(stop_at=7))
    assert np.array_equal(film(recipe, "none"), before)


def test_the_payload_names_it(recipe: WanRecipe) -> None:
    (made,) = make(recipe, request("fast"))
    assert (made.metadata["acceleration"], made.metadata["accelerated_by"]) == ("fast", ["first_block_cache"])


@pytest.mark.parametrize("references", [False, True], ids=["text", "reference"])
@pytest.mark.parametrize("loras", [False, True], ids=["plain", "lora"])
def test_fused_projections_compute_the_same_and_come_off(tiny_models: Path, references: bool, loras: bool) -> None:
    pipelines = load_wan(tiny_models / "wan", torch.device("cpu"), torch.float32)
    pipeline = pipelines.vace if references else pipelines.text
    names = {name for name, _ in pipeline.transformer.named_modules()}
    with changed(pipelines, 0.5 if loras else 0.0):
        before = latents(pipeline)
        with accelerated(pipeline.transformer, ("fused_projections",)):
            assert {name for name, _ in pipeline.transformer.named_modules()} > names
            fused = latents(pipeline)
        assert torch.equal(latents(pipeline), before)
    assert (fused - before).abs().max() <= 2e-6 * before.abs().max()
    assert {name for name, _ in pipeline.transformer.named_modules()} == names
    if loras:
        assert not torch.allclose(latents(pipeline), before)


@contextmanager
def changed(pipelines: WanPipelines, scale: float) -> Iterator[None]:
    """With what a LoRA adds to a layer that is fused."""
    layer = ("transformer", "blocks.0.attn1.to_q")
    down, up = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((2, 48), (48, 2)))
    with merged(target(pipelines), [({layer: Factors(down, up, 1.0)}, scale)] if scale else []):
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
def test_compiled_blocks_compute_the_same_to_the_last_digits_with_and_without_a_lora(tiny_models: Path) -> None:
    pipelines = load_wan(tiny_models / "wan", torch.device("cpu"), torch.float32)
    pipeline = pipelines.text
    for scale in (0.0, 0.5):
        with changed(pipelines, scale):
            before = latents(pipeline)
            with accelerated(pipeline.transformer, ("fused_projections", "cudnn_attention", "compiled_blocks")):
                compiled = latents(pipeline)
            assert torch.equal(latents(pipeline), before)
        assert not torch.equal(compiled, before)  # it was compiled
        assert (compiled - before).abs().max() <= 1e-5 * before.abs().max()


def test_what_fails_while_it_is_put_on_comes_off_all_the_same(tiny_models: Path) -> None:
    transformer = load_wan(tiny_models / "wan", torch.device("cpu"), torch.float32).text.transformer

    def fail() -> None:
        with accelerated(transformer, ("fused_projections", "compiled_blocks")):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not any(getattr(module, "fused_projections", False) or module._compiled_call_impl for module in transformer.modules())


def test_lossless_is_off_on_a_cpu_and_says_so(recipe: WanRecipe) -> None:
    request_ = request("lossless")
    products = make(recipe, request_)
    assert np.array_equal(np.stack(list(clip(products).frames)), film(recipe, "none"))
    assert (products[0].metadata["acceleration"], products[0].metadata["accelerated_by"]) == ("lossless", [])
    assert recipe.summarize(request_, products).warnings == ["config.acceleration: lossless does nothing on this worker's device"]


def test_the_copy_that_fused_projections_need_is_counted(recipe: WanRecipe) -> None:
    transformer = recipe._pipelines.text.transformer
    layers = [layer for name, layer in transformer.named_modules() if name.endswith(("to_q", "to_k", "to_v"))]
    assert fused_size(transformer) == sum(layer.weight.nbytes for layer in layers) > 0


def test_a_clip_is_decoded_in_tiles_only_where_the_whole_does_not_fit(tiny_models: Path) -> None:
    vae = load_wan(tiny_models / "wan", torch.device("cpu"), torch.float32).text.vae
    needed = needed_to_decode(64, 64)
    latents = torch.randn(1, vae.config.z_dim, 2, 8, 8)
    for free, tiled in ((None, False), (needed, False), (needed - 1, True)):
        frames = decode_within_memory(vae, latents, (), fail, free=free)
        next(frames)
        assert vae.use_tiling is tiled
        frames.close()
        assert not vae.use_tiling
    assert needed < needed_to_decode(480, 832) / 90


def fail(warning: str) -> None:
    raise AssertionError(warning)
