"""Text-to-image on the small trained model: images show what their prompts describe."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from handlers.sdxl.request import SdxlRequest
from shared.jobs.recipe import Recipe
from small_models.training.sdxl.classifier import classify
from small_models.training.sdxl.generation import generate_image, load_recipe
from small_models.training.sdxl.prompt_adherence import accuracy, measure_adherence

Sdxl = Recipe[SdxlRequest]
NOT_WHITE = "a red circle on a white background"


@pytest.fixture(scope="module")
def recipe(small_models: Path) -> Sdxl:
    return load_recipe(small_models / "sdxl")


@pytest.mark.parametrize("color", ["red", "green", "blue", "yellow"])
def test_colours_follow_the_prompt(recipe: Sdxl, color: str) -> None:
    shown = classify(generate_image(recipe, f"a {color} circle on a black background", 1))
    assert (shown.color, shown.shape, shown.background) == (color, "circle", "black")


@pytest.mark.parametrize("place", ["left", "right", "top", "bottom"])
def test_positions_follow_the_prompt(recipe: Sdxl, place: str) -> None:
    assert classify(generate_image(recipe, f"a red square at the {place}, white background", 1)).place == place


@pytest.mark.slow
def test_most_attributes_of_unseen_combinations_are_drawn(recipe: Sdxl) -> None:
    assert accuracy(*measure_adherence(partial(generate_image, recipe), 16)) >= 0.85


def test_the_seed_changes_the_pixels_but_not_the_content(recipe: Sdxl) -> None:
    prompt = "a red square on a blue background"
    one, other = generate_image(recipe, prompt, 1), generate_image(recipe, prompt, 2)
    assert not np.array_equal(one, other)
    assert classify(one) == classify(other)


def test_a_negative_prompt_suppresses_its_content_only_with_guidance(recipe: Sdxl) -> None:
    white = {
        guidance: [
            classify(generate_image(recipe, "a red circle", seed, guidance=guidance, negative=negative)).background for seed in range(6)
        ].count("white")
        for guidance, negative in ((2.0, ""), (1.0, NOT_WHITE), (4.0, NOT_WHITE))
    }
    assert white[2.0] == white[1.0] == 6
    assert white[4.0] <= 3
