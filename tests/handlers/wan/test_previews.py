"""Previews show the unfinished clip on request, and do not change it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.wan.recipe import WanRecipe
from handlers.wan.request import WanRequest
from shared.jobs.recipe import Recipe
from small_models.training.wan.evaluation import load_recipe
from tests.handlers.conftest import RecordedRun, clip, generate, wan
from tests.shared.models.test_previews import opened

PROMPT = "a red circle moves to the right on a blue background"


@pytest.fixture(scope="module")
def recipe(small_models: Path) -> Recipe[WanRequest]:
    return load_recipe(small_models / "wan")


def test_each_step_has_a_preview_and_the_last_resembles_the_clip(recipe: Recipe[WanRequest]) -> None:
    recorded = RecordedRun()
    frames = list(clip(generate(recipe, wan(PROMPT, steps=12, guidance_scale=3.0, preview=True), recorded)).frames)
    assert len(recorded.previews) == 12
    assert len({*recorded.previews}) == 12
    shown = opened(recorded.previews[-1])
    assert shown.shape == (8, 8, 3)
    small = np.asarray(Image.fromarray(frames[5]).resize((8, 8), Image.Resampling.BOX), np.float32)
    assert np.corrcoef(shown.ravel(), small.ravel())[0, 1] > 0.8


def test_a_clip_with_reference_frames_in_front_shows_its_own_frame(recipe: Recipe[WanRequest]) -> None:
    recorded, white = RecordedRun(), Image.new("RGB", (64, 64), "white")
    request = wan(PROMPT, steps=2, frames=1, image="https://a.example/a.png", preview=True)
    generate(recipe, request, recorded, references={"config.image": white})
    assert opened(recorded.previews[0]).shape == (8, 8, 3)


def test_previews_are_optional_and_do_not_change_the_clip(recipe: Recipe[WanRequest]) -> None:
    recorded = RecordedRun()
    plain = list(clip(generate(recipe, wan(PROMPT), recorded)).frames)
    assert recorded.previews == []
    assert np.array_equal(plain, list(clip(generate(recipe, wan(PROMPT, preview=True))).frames))


def test_reference_frames_in_front_are_not_previewed(recipe: Recipe[WanRequest]) -> None:
    assert isinstance(recipe, WanRecipe)
    latents = torch.randn(1, 16, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        shown = [recipe._previewer.skipping(count)(latents) for count in (0, 1, 3)]
        assert shown[0] == recipe._previewer.skipping(1)(latents[:, :, 0:4])
        assert shown[2] != shown[0]
