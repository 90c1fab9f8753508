"""A clip that cannot fit is refused before any work; tiling and offloading make others fit without changing them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from handlers.wan.decoding import vae_encode_tiling
from handlers.wan.handler import load
from handlers.wan.memory import DeviceMemory, MemoryEstimate, check_memory
from handlers.wan.recipe import WanRecipe
from handlers.wan.request import WanRequest
from shared.errors import OutOfMemory
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.recipe import JobRun
from shared.media.images import Pixels
from shared.models.device import memory_footprint
from shared.settings import Settings
from tests.handlers.conftest import RecordedRun, clip, generate, wan

GB = 10**9


def worker(tiny_models: Path, gigabytes: float | None) -> WanRecipe:
    """A worker whose device is limited to so much memory."""
    recipe = load(Settings(models_dir=tiny_models, device="cpu", device_memory_gb=gigabytes))
    assert isinstance(recipe, WanRecipe)
    return recipe


@pytest.fixture(scope="module")
def small(tiny_models: Path) -> WanRecipe:
    """1 GB is reserved for everything but tensors, so 0.6 GB are left."""
    return worker(tiny_models, 1.6)


def frames_of(recipe: WanRecipe, request: WanRequest) -> Pixels:
    return np.stack(list(clip(generate(recipe, request)).frames))


def refusal(recipe: WanRecipe, request: WanRequest) -> str:
    with pytest.raises(OutOfMemory) as caught:
        recipe.check(request)
    return str(caught.value)


def published(width: int, feed_forward: int, vace_blocks: int = 0) -> SimpleNamespace:
    """A stub with the configuration of a transformer."""

    class Config(dict[str, object]):
        num_attention_heads, attention_head_dim, ffn_dim = width // 128, 128, feed_forward

    return SimpleNamespace(config=Config(vace_layers=list(range(vace_blocks))))


@pytest.mark.parametrize(
    ("transformer", "counted"),
    [(published(1536, 8960), 1.616), (published(1536, 8960, 15), 3.226), (published(5120, 13824), 3.744)],
    ids=["1.3B", "VACE 1.3B", "14B"],
)
def test_estimates_match_the_counts_for_the_published_networks(transformer: SimpleNamespace, counted: float) -> None:
    assert MemoryEstimate(480, 832, 81).denoising(transformer) / GB == pytest.approx(counted, rel=0.03)
    assert MemoryEstimate(480, 832, 81).decoding(tiled=False) / GB == pytest.approx(6.99, rel=0.01)
    assert MemoryEstimate(480, 832, 81, decoding_dtype=torch.float16).decoding(tiled=False) / GB == pytest.approx(3.62, rel=0.01)
    assert MemoryEstimate(480, 832, 81).decoding(tiled=True) / GB == pytest.approx(1.82, rel=0.06)


def test_a_clip_that_cannot_fit_is_refused_with_one_that_does(small: WanRecipe) -> None:
    message = refusal(small, wan(width=480, height=832, frames=81))
    assert "81 frames of 480x832 need 1.9 GB" in message
    assert "0.6 GB" in message
    size = message.rpartition("81 frames of ")[2].rstrip(".")
    width, height = (int(side) for side in size.split("x"))
    small.check(wan(width=width, height=height, frames=81))
    refusal(small, wan(width=width + 16, height=height + 32, frames=81))


def test_the_number_of_frames_that_fit_is_named(tiny_models: Path) -> None:
    recipe = worker(tiny_models, 2.5)
    message = refusal(recipe, wan(width=480, height=832, frames=83))
    frames = int(message.partition("Clips that fit: ")[2].partition(" frames of 480x832")[0])
    recipe.check(wan(width=480, height=832, frames=frames))
    refusal(recipe, wan(width=480, height=832, frames=frames + 1))


def test_if_no_smaller_clip_fits_the_message_says_so(tiny_models: Path) -> None:
    assert "Clips that fit: none" in refusal(worker(tiny_models, 0.5), wan())


def test_a_clip_made_with_little_memory_is_the_same(small: WanRecipe, wan_recipe: WanRecipe) -> None:
    request = wan(width=96, height=64, frames=9)
    assert np.array_equal(frames_of(small, request), frames_of(wan_recipe, request))


def test_without_a_limit_every_clip_is_accepted(wan_recipe: WanRecipe) -> None:
    wan_recipe.check(wan(width=480, height=832, frames=83))


def test_the_text_encoder_is_offloaded_when_needed_and_loaded_for_a_new_prompt(
    wan_recipe: WanRecipe, tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipelines = worker(tiny_models, None)._pipelines
    needed, encoder = (
        MemoryEstimate(64, 64, 9).peak(pipelines.text_to_video.transformer, tiled=False),
        memory_footprint(pipelines.text_to_video.text_encoder),
    )
    resident = memory_footprint(pipelines.vae, pipelines.vace.transformer)
    tight = WanRecipe(pipelines, wan_recipe._addons, memory_limit=resident + needed + encoder // 2)
    offloads = []
    for request in (wan(), wan(seed=8), wan("a blue square")):
        made = np.stack(list(clip(list(tight.generate(request, {}, RecordedRun().run))).frames))
        assert np.array_equal(made, frames_of(wan_recipe, request))
        offloads.append(capsys.readouterr().out.count("text encoder offloaded"))
        assert tight._offload.is_offloaded
    assert offloads == [1, 0, 1]  # the second prompt is cached


def test_the_text_encoder_stays_on_the_device_if_it_fits(small: WanRecipe, wan_recipe: WanRecipe) -> None:
    for recipe in (small, wan_recipe):
        frames_of(recipe, wan())
        assert not recipe._offload.is_offloaded


def test_the_text_encoder_is_detached_during_denoising_and_restored(small: WanRecipe) -> None:
    seen: list[object] = []

    def record(*_: object, **__: object) -> None:
        seen.append(small._pipelines.text_to_video.text_encoder)

    list(clip(list(small.generate(wan(), {}, JobRun("job", CancelToken(60), record)))).frames)
    assert seen == [None] * 3
    assert all(pipeline.text_encoder is not None for pipeline in small._pipelines.all)


@pytest.mark.parametrize(("free", "tiled"), [(GB, True), (100 * GB, False)])
def test_a_reference_is_encoded_in_tiles_if_the_whole_does_not_fit(free: int, tiled: bool) -> None:
    class Vae:
        use_tiling = False

        def enable_tiling(self) -> None:
            self.use_tiling = True

        def disable_tiling(self) -> None:
            self.use_tiling = False

    vae = Vae()
    needed = MemoryEstimate(480, 832, 81, encodes_references=True).encoding(published(1536, 8960, 15), tiled=False)
    with vae_encode_tiling(vae, free, needed):
        assert vae.use_tiling is tiled
    assert not vae.use_tiling


def test_references_increase_the_estimate() -> None:
    none, frames, image = (
        MemoryEstimate(480, 832, 81),
        MemoryEstimate(480, 832, 81, encodes_references=True),
        MemoryEstimate(480, 832, 81, 1, encodes_references=True),
    )
    vace, image_to_video = published(1536, 8960, 15), published(5120, 13824)
    clip = 14 * 480 * 832 * 81  # what diffusers keeps until the job ends
    assert frames.denoising(vace) == none.denoising(vace) + clip
    assert image.denoising(vace) - clip == pytest.approx(none.denoising(vace) * 22 / 21, abs=2)
    assert frames.denoising(image_to_video) == none.denoising(image_to_video)
    assert none.encoding(vace, tiled=False) == 0 < frames.encoding(vace, tiled=True) < frames.encoding(vace, tiled=False)
    sizes = [
        each.encoding(transformer, tiled=False) / GB for each, transformer in ((frames, image_to_video), (frames, vace), (image, vace))
    ]
    assert sizes == pytest.approx([6.05, 7.07, 7.59], rel=0.01), "as counted by benchmarks/wan_features.py"


@pytest.mark.parametrize(
    ("acceleration", "guidance", "tensors"),
    [("none", 6.5, 0), ("lossless", 6.5, 0), ("taylorseer_cache", 6.5, 0), ("mag_cache", 6.5, 4), ("mag_cache", 1.0, 2), ("fast", 6.5, 6)],
)
def test_a_step_cache_keeps_tensors_of_every_token(wan_recipe: WanRecipe, acceleration: str, guidance: float, tensors: int) -> None:
    request = wan(width=832, height=480, frames=81, acceleration=acceleration, guidance_scale=guidance)
    estimate = MemoryEstimate.of(request, wan_recipe._pipelines.vae)
    transformer = published(1536, 8960)
    plain = MemoryEstimate(832, 480, 81).denoising(transformer)
    assert estimate.denoising(transformer) - plain == pytest.approx(tensors * 2 * 1536 * 32_760, abs=2)


def test_a_gpu_without_a_limit_reports_its_own_memory() -> None:
    check_memory(MemoryEstimate(64, 64, 5), published(1536, 8960), DeviceMemory(torch.device("cpu")), 0)
    assert DeviceMemory(torch.device("cpu"), 5).free(3) == 2
    assert DeviceMemory(torch.device("cpu")).free(3) is None
