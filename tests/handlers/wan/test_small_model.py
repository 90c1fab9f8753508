"""WAN on the small model that was trained: clips show what prompts say, and keep to the frames that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.wan.request import WanRequest
from shared.jobs.recipe import Recipe
from shared.weights.folders import missing_files
from small_models.training.shapes import Pixels
from small_models.training.wan.check import load_recipe, load_vace, make, make_given
from small_models.training.wan.clips import Scene, render
from small_models.training.wan.detector import read_clip

Wan = Recipe[WanRequest]
SCENE = Scene("circle", "red", "right", "blue")


@pytest.fixture(scope="module")
def recipe(small_models: Path) -> Wan:
    return load_recipe(small_models / "wan")


@pytest.fixture(scope="module")
def pipeline(small_models: Path) -> Any:
    return load_vace(small_models / "wan")


def error(first: Pixels, second: Pixels) -> float:
    return float(np.abs(first.astype(np.float32) - second).mean())


def test_the_folder_is_complete(small_models: Path) -> None:
    assert missing_files(small_models / "wan", "diffusers") == []


@pytest.mark.parametrize(("words", "motion"), [("to the right", "right"), ("to the left", "left"), ("up", "up"), ("down", "down")])
def test_a_red_circle_moves_where_the_prompt_says(recipe: Wan, words: str, motion: str) -> None:
    shown = read_clip(make(recipe, f"a red circle moves {words} on a blue background", frames=9, seed=1))
    assert (shown.color, shown.background, shown.motion) == ("red", "blue", motion)


@pytest.mark.parametrize("color", ["green", "yellow", "purple"])
def test_a_figure_has_the_color_that_the_prompt_names(recipe: Wan, color: str) -> None:
    shown = read_clip(make(recipe, f"a {color} square moves down, black background", frames=9, seed=2))
    assert (shown.color, shown.background) == (color, "black")


@pytest.mark.parametrize("frames", [13, 17])
def test_longer_clips_move_as_well(recipe: Wan, frames: int) -> None:
    clip = make(recipe, "a white square moving to the left on a green background", frames=frames, seed=3)
    assert len(clip) == frames
    assert read_clip(clip).motion == "left"


@pytest.mark.parametrize("solver", ["unipc", "dpm++", "euler"])
def test_every_solver_makes_what_the_prompt_says(recipe: Wan, solver: str) -> None:
    clip = make(recipe, "a black circle moves up on a yellow background", frames=9, seed=4, sample_solver=solver)
    assert read_clip(clip).motion == "up"


@pytest.mark.parametrize("given", [(0,), (-1,), (0, -1)], ids=["first", "last", "both"])
def test_a_clip_keeps_to_the_frames_that_are_given(pipeline: Any, given: tuple[int, ...]) -> None:
    clip, prompt = render(SCENE, 9, np.random.default_rng(5)), "a red circle moves to the right on a blue background"
    chosen = list(given)
    made, other = (make_given(pipeline, prompt, clip, frames, seed=6) for frames in (given, ()))
    assert error(made[chosen], clip[chosen]) < 12
    assert error(made[chosen], clip[chosen]) < error(other[chosen], clip[chosen])
