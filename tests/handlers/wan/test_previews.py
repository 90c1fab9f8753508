"""Who asks for it sees a clip while it is made; it is the same clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handlers.wan.request import WanRequest
from shared.jobs.recipe import Recipe
from small_models.training.wan.check import load_recipe
from tests.handlers.conftest import Watched, clip, make, wan
from tests.shared.models.test_previews import opened

PROMPT = "a red circle moves to the right on a blue background"


@pytest.fixture(scope="module")
def recipe(small_models: Path) -> Recipe[WanRequest]:
    return load_recipe(small_models / "wan")


def test_each_step_shows_what_there_is_so_far_and_the_last_the_clip(recipe: Recipe[WanRequest]) -> None:
    watched = Watched()
    frames = list(clip(make(recipe, wan(PROMPT, steps=12, guidance_scale=3.0, preview=True), watched)).frames)
    assert len(watched.previews) == 12
    assert len({*watched.previews}) == 12
    shown = opened(watched.previews[-1])
    assert shown.shape == (8, 8, 3)
    small = np.asarray(Image.fromarray(frames[5]).resize((8, 8), Image.Resampling.BOX), np.float32)
    assert np.corrcoef(shown.ravel(), small.ravel())[0, 1] > 0.8


def test_a_clip_with_a_reference_in_front_shows_itself(recipe: Recipe[WanRequest]) -> None:
    watched, white = Watched(), Image.new("RGB", (64, 64), "white")
    request = wan(PROMPT, steps=2, frames=1, image="https://a.example/a.png", preview=True)
    make(recipe, request, watched, references={"config.image": white})
    assert opened(watched.previews[0]).shape == (8, 8, 3)


def test_who_looks_on_gets_the_same_clip_and_who_does_not_gets_no_preview(recipe: Recipe[WanRequest]) -> None:
    unseen = Watched()
    plain = list(clip(make(recipe, wan(PROMPT), unseen)).frames)
    assert unseen.previews == []
    assert np.array_equal(plain, list(clip(make(recipe, wan(PROMPT, preview=True))).frames))


def test_a_reference_in_front_is_not_what_is_shown(recipe: Recipe[WanRequest]) -> None:
    import torch

    from handlers.wan.recipe import WanRecipe

    assert isinstance(recipe, WanRecipe)
    latents = torch.randn(1, 16, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        shown = [recipe._looks.of(leading)(latents) for leading in (0, 1, 3)]
        assert shown[0] == recipe._looks.of(1)(latents[:, :, 0:4])
        assert shown[2] != shown[0]
