"""The trained small WAN: clips follow their prompts and their reference frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.wan.request import WanRequest
from shared.jobs.recipe import Recipe
from shared.weights.folders import missing_files
from small_models.training.shapes import Pixels
from small_models.training.wan.classifier import classify_clip
from small_models.training.wan.dataset import Scene, render
from small_models.training.wan.evaluation import generate_clip, generate_from_frames, load_recipe, load_vace_pipeline

Wan = Recipe[WanRequest]
SCENE = Scene("circle", "red", "right", "blue")


@pytest.fixture(scope="module")
def recipe(small_models: Path) -> Wan:
    return load_recipe(small_models / "wan")


@pytest.fixture(scope="module")
def pipeline(small_models: Path) -> Any:
    return load_vace_pipeline(small_models / "wan")


def error(first: Pixels, second: Pixels) -> float:
    return float(np.abs(first.astype(np.float32) - second).mean())


def test_the_folder_is_complete(small_models: Path) -> None:
    assert missing_files(small_models / "wan", "diffusers") == []


@pytest.mark.parametrize(("words", "motion"), [("to the right", "right"), ("to the left", "left"), ("up", "up"), ("down", "down")])
def test_a_circle_moves_as_prompted(recipe: Wan, words: str, motion: str) -> None:
    shown = classify_clip(generate_clip(recipe, f"a red circle moves {words} on a blue background", frames=9, seed=1))
    assert (shown.color, shown.background, shown.motion) == ("red", "blue", motion)


@pytest.mark.parametrize("color", ["green", "yellow", "purple"])
def test_a_shape_has_the_prompted_colour(recipe: Wan, color: str) -> None:
    shown = classify_clip(generate_clip(recipe, f"a {color} square moves down, black background", frames=9, seed=2))
    assert (shown.color, shown.background) == (color, "black")


@pytest.mark.parametrize("frames", [13, 17])
def test_longer_clips_move_as_prompted(recipe: Wan, frames: int) -> None:
    clip = generate_clip(recipe, "a white square moving to the left on a green background", frames=frames, seed=3)
    assert len(clip) == frames
    assert classify_clip(clip).motion == "left"


@pytest.mark.parametrize("name", ["unipc", "dpm++", "euler"])
def test_every_scheduler_follows_the_prompt(recipe: Wan, name: str) -> None:
    clip = generate_clip(recipe, "a black circle moves up on a yellow background", frames=9, seed=4, sample_solver=name)
    assert classify_clip(clip).motion == "up"


@pytest.mark.parametrize("given", [(0,), (-1,), (0, -1)], ids=["first", "last", "both"])
def test_a_clip_keeps_the_given_frames(pipeline: Any, given: tuple[int, ...]) -> None:
    clip, prompt = render(SCENE, 9, np.random.default_rng(5)), "a red circle moves to the right on a blue background"
    chosen = list(given)
    made, other = (generate_from_frames(pipeline, prompt, clip, frames, seed=6) for frames in (given, ()))
    assert error(made[chosen], clip[chosen]) < 12
    assert error(made[chosen], clip[chosen]) < error(other[chosen], clip[chosen])
