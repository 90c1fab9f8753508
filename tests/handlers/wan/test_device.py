"""What a clip asks of a GPU, counted on a fake CUDA device with shallow networks: no step waits, and devices and types agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.device_counts import PREPARE, JobCounts, count_job
from benchmarks.fake_cuda import FakeCuda, can_build_device_guard
from benchmarks.full_size_addons import FullSizeAddons
from benchmarks.sdxl_networks import lora
from benchmarks.wan_networks import shallow, shallow_image_to_video
from handlers.wan.features.lora import lora_target
from handlers.wan.recipe import WanRecipe
from tests.handlers.conftest import wan

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not can_build_device_guard(), reason="needs a C++ compiler")]

DEVICE = torch.device("cuda:0")
URL = "https://a.example/b.png"
IMAGE = Image.effect_noise((64, 64), 90).convert("RGB")


@pytest.fixture(scope="module")
def card() -> Iterator[FakeCuda]:
    with FakeCuda() as card:
        yield card


@pytest.fixture(scope="module")
def recipe(card: FakeCuda, tiny_models: Path) -> WanRecipe:
    pipelines = shallow(tiny_models / "wan/tokenizer", DEVICE)
    return WanRecipe(pipelines, FullSizeAddons({("loras", "style"): lambda: lora(lora_target(pipelines))}))


def counted(card: FakeCuda, recipe: WanRecipe, **config: Any) -> JobCounts:
    request = wan(**{"steps": 4} | config)
    denoisers = [pipeline.transformer for pipeline in recipe._pipelines.all]
    return count_job(card, recipe, request, denoisers, dict.fromkeys(request.references, IMAGE))


@pytest.mark.parametrize(("solver", "waits"), [("unipc", 0), ("dpm++", 0), ("euler", 1)])
def test_no_step_waits_except_with_euler_whose_noise_levels_diffusers_reads_from_the_device(
    card: FakeCuda, recipe: WanRecipe, solver: str, waits: int
) -> None:
    job = counted(card, recipe, sample_solver=solver)
    assert job.waits_by_step[1:] == (waits,) * 3, job.counts.describe_waits()


@pytest.mark.parametrize(
    "config",
    [
        {"first_frame": URL, "last_frame": URL},
        {"image": URL},
        {"loras": [{"name": "style", "scale": 0.5}]},
        {"acceleration": "lossless"},
    ],
    ids=["first and last frame", "reference", "LoRA", "lossless"],
)
def test_no_feature_mixes_devices_or_types_and_its_steps_do_not_wait(card: FakeCuda, recipe: WanRecipe, config: dict[str, Any]) -> None:
    job = counted(card, recipe, **config)
    assert job.outputs == 1
    assert job.waits_by_step[1:] == (0, 0, 0), job.counts.describe_waits()


def test_image_to_video_mixes_no_devices_or_types_and_its_steps_do_not_wait(card: FakeCuda, tiny_models: Path) -> None:
    recipe = WanRecipe(shallow_image_to_video(tiny_models / "wan/tokenizer", DEVICE), FullSizeAddons({}))
    job = counted(card, recipe, first_frame=URL, last_frame=URL)
    assert job.waits_by_step[1:] == (0, 0, 0), job.counts.describe_waits()


def test_every_preview_waits_once_and_the_first_of_all_fits_their_map(card: FakeCuda, recipe: WanRecipe) -> None:
    counted(card, recipe, preview=True)
    job = counted(card, recipe, preview=True)
    assert job.waits_by_step[1:] == (1, 1, 1), job.counts.describe_waits()


def test_a_prompt_is_encoded_once_and_its_encoder_leaves_the_device_when_memory_is_short(card: FakeCuda, recipe: WanRecipe) -> None:
    encoder = recipe._offload
    counted(card, recipe)
    assert counted(card, recipe).counts.flops_in(PREPARE) == 0
    total, card.memory.total = card.memory.total, card.memory.allocated + 2**20
    try:
        encoder.ensure_free(2**21)
        assert encoder.is_offloaded
        assert card.memory.allocated < card.memory.total - 2**20
    finally:
        card.memory.total = total
    encoder.load()
    assert not encoder.is_offloaded
