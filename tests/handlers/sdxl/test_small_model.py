"""SDXL, text → image, on the small model that was trained: pictures show what prompts say."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from handlers.sdxl.request import SdxlRequest
from shared.jobs.recipe import Recipe
from small_models.training.detector import read
from small_models.training.drawing import draw, load_recipe
from small_models.training.following import follow, share

Sdxl = Recipe[SdxlRequest]
NOT_WHITE = "a red circle on a white background"


@pytest.fixture(scope="module")
def recipe(small_models: Path) -> Sdxl:
    return load_recipe(small_models / "sdxl")


@pytest.mark.parametrize("color", ["red", "green", "blue", "yellow"])
def test_red_is_red(recipe: Sdxl, color: str) -> None:
    shown = read(draw(recipe, f"a {color} circle on a black background", 1))
    assert (shown.color, shown.shape, shown.background) == (color, "circle", "black")


@pytest.mark.parametrize("place", ["left", "right", "top", "bottom"])
def test_a_figure_stands_where_the_prompt_says(recipe: Sdxl, place: str) -> None:
    assert read(draw(recipe, f"a red square at the {place}, white background", 1)).place == place


def test_most_of_what_new_combinations_name_is_shown(recipe: Sdxl) -> None:
    assert share(*follow(partial(draw, recipe), 16)) >= 0.85


def test_the_seed_moves_the_picture_and_not_what_it_shows(recipe: Sdxl) -> None:
    prompt = "a red square on a blue background"
    one, other = draw(recipe, prompt, 1), draw(recipe, prompt, 2)
    assert not np.array_equal(one, other)
    assert read(one) == read(other)


def test_a_negative_prompt_takes_away_what_it_names_as_far_as_guidance_goes(recipe: Sdxl) -> None:
    white = {
        guidance: [read(draw(recipe, "a red circle", seed, guidance=guidance, negative=negative)).background for seed in range(6)].count(
            "white"
        )
        for guidance, negative in ((2.0, ""), (1.0, NOT_WHITE), (4.0, NOT_WHITE))
    }
    assert white[2.0] == white[1.0] == 6
    assert white[4.0] <= 3
