"""WAN with pictures to go by, on the small model that was trained: each mode acts, in the frames that it is about."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.wan.features.reference import conditioning_scale, conditions
from handlers.wan.recipe import WanRecipe
from handlers.wan.request import WanRequest
from handlers.wan.weights.load import load_wan
from shared.errors import ModelUnavailable
from shared.jobs.recipe import Recipe
from shared.weights.addons import Shelf
from small_models.training.shapes import Pixels
from small_models.training.wan.check import load_recipe
from small_models.training.wan.clips import Scene, render
from small_models.training.wan.detector import read_clip
from tests.handlers.conftest import Watched, clip, make, pictures, wan

Wan = Recipe[WanRequest]
CLIP = render(Scene("circle", "red", "right", "blue"), 9, np.random.default_rng(5))
PROMPT = "a red circle moves to the right on a blue background"
PLACES = {"first_frame": 0, "last_frame": -1}
WITHIN = 12.0
"""Mean error of a given frame in levels of 255; the VAE alone has about 4, and clips of the same prompt differ by more than 15."""


@pytest.fixture(scope="module")
def recipe(small_models: Path) -> Wan:
    return load_recipe(small_models / "wan")


def film(recipe: Wan, *given: str, prompt: str = PROMPT, strength: float = 0.5, size: tuple[int, int] = (64, 64), **config: Any) -> Pixels:
    """A clip that goes by frames of `CLIP`, which arrive in another size."""
    shown = {name: Image.fromarray(CLIP[PLACES.get(name, 0)]).resize(size, Image.Resampling.NEAREST) for name in given}
    settings = {"steps": 15, "guidance_scale": 3.0, "seed": 6} | {name: "https://a.example/picture.png" for name in given} | config
    request = wan(prompt, strength=strength, **settings)
    made = make(recipe, request, references={f"config.{name}": picture for name, picture in shown.items()})
    return np.stack(list(clip(made).frames))


def error(first: Pixels, second: Pixels) -> float:
    return float(np.abs(first.astype(np.float32) - second).mean())


@pytest.mark.parametrize("given", [("first_frame",), ("last_frame",), ("first_frame", "last_frame")], ids=["start", "end", "both"])
def test_given_frames_are_those_of_the_clip(recipe: Wan, given: tuple[str, ...]) -> None:
    made, free = film(recipe, *given), film(recipe)
    for name in given:
        place = PLACES[name]
        assert error(made[place], CLIP[place]) < WITHIN
        assert error(made[place], CLIP[place]) < error(free[place], CLIP[place])


@pytest.mark.parametrize("frames", [7, 8])
def test_a_clip_that_is_cut_ends_on_the_picture(recipe: Wan, frames: int) -> None:
    made = film(recipe, "last_frame", frames=frames)
    assert len(made) == frames
    assert error(made[-1], CLIP[-1]) < WITHIN


def test_a_first_frame_leaves_its_mark_on_the_first_frames_most(recipe: Wan) -> None:
    made, free = film(recipe, "first_frame", prompt="a clip"), film(recipe, prompt="a clip")
    assert error(made[0], CLIP[0]) < error(free[0], CLIP[0]) / 2


def test_a_single_reference_conditions_the_whole_clip(recipe: Wan) -> None:
    prompt = "a clip"
    made, free = film(recipe, "image", prompt=prompt), film(recipe, prompt=prompt)
    assert all(error(made[frame], free[frame]) > 5 for frame in range(9))
    assert error(made, CLIP) < error(free, CLIP) / 2


@pytest.mark.parametrize("given", [("first_frame",), ("last_frame",), ("first_frame", "last_frame"), ("image",)], ids=str)
def test_the_stronger_a_reference_the_nearer_the_clip_is_to_it(recipe: Wan, given: tuple[str, ...]) -> None:
    frames = [PLACES.get(name, 0) for name in given] if given != ("image",) else list(range(9))
    errors = [error(film(recipe, *given, strength=strength)[frames], CLIP[frames]) for strength in (0.0, 0.5, 1.0)]
    assert errors[0] > errors[1] > errors[2]


def test_even_the_weakest_reference_acts(recipe: Wan) -> None:
    assert conditioning_scale(0.0) > 0
    assert not np.array_equal(film(recipe, "first_frame", strength=0.0), film(recipe))


def test_without_references_their_strength_changes_nothing(recipe: Wan) -> None:
    assert np.array_equal(film(recipe, strength=1.0), film(recipe, strength=0.0))


def test_a_reference_of_another_size_is_cropped_in_the_middle_and_never_padded(recipe: Wan) -> None:
    wide = np.concatenate([np.zeros_like(CLIP[0]), CLIP[0], np.zeros_like(CLIP[0])], axis=1)
    request = wan(first_frame="https://a.example/picture.png")
    given = conditions(request, {"config.first_frame": Image.fromarray(wide)}, 9)
    assert np.array_equal(np.asarray(given.arguments["video"][0]), CLIP[0])
    assert {frame.size for frame in given.arguments["video"]} == {frame.size for frame in given.arguments["mask"]} == {(64, 64)}


def test_frames_that_are_still_to_be_made_are_not_held_one_by_one() -> None:
    request = wan(first_frame="https://a.example/picture.png", frames=81)
    given = conditions(request, {"config.first_frame": Image.fromarray(CLIP[0])}, 81)
    assert len(given.arguments["video"]) == len(given.arguments["mask"]) == 81
    assert len({id(frame) for frame in (*given.arguments["video"], *given.arguments["mask"])}) == 4


@pytest.mark.parametrize("name", ["image", "first_frame", "last_frame"])
def test_a_picture_of_one_frame_resembles_its_reference(recipe: Wan, name: str) -> None:
    prompt = "a picture of a circle"
    settings: dict[str, Any] = {"kind": "image_high", "steps": 15, "guidance_scale": 3.0}
    request, given = wan(prompt, **settings | {name: "https://a.example/picture.png"}), {f"config.{name}": Image.fromarray(CLIP[0])}
    (made,) = pictures(make(recipe, request, references=given))
    (free,) = pictures(make(recipe, wan(prompt, **settings)))
    assert made.pixels.shape == (64, 64, 3)
    assert error(made.pixels, CLIP[0]) < error(free.pixels, CLIP[0]) - 5


def test_a_clip_still_follows_its_prompt(recipe: Wan) -> None:
    shown = read_clip(film(recipe, "first_frame", steps=20))
    assert (shown.color, shown.background, shown.motion) == ("red", "blue", "right")


def test_the_payload_says_what_was_done_with_references(recipe: Wan) -> None:
    request = wan(strength=0.25, steps=2, first_frame="https://a.example/picture.png")
    products = make(recipe, request, references={"config.first_frame": Image.fromarray(CLIP[0])})
    said = recipe.summarize(request, products).metadata
    assert (said["reference_mode"], said["reference_method"], said["reference_strength"]) == ("start", "vace", 0.25)
    assert products[0].metadata["conditioning_scale"] == 0.75


def test_the_next_job_does_not_see_the_references_of_the_last(recipe: Wan) -> None:
    before = film(recipe)
    film(recipe, "first_frame", "last_frame")
    assert np.array_equal(film(recipe), before)


def test_a_stopped_job_with_references_leaves_no_trace(recipe: Wan) -> None:
    before, watched = film(recipe), Watched(stop_at=1)
    request = wan(first_frame="https://a.example/picture.png")
    with pytest.raises(Exception, match="stopped"):
        make(recipe, request, watched, references={"config.first_frame": Image.fromarray(CLIP[0])})
    assert np.array_equal(film(recipe), before)


def test_a_worker_whose_wan_knows_text_alone_refuses_references_by_name(small_models: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small_models / "wan", tmp_path / "wan"))
    whole = load_wan(folder, torch.device("cpu"), torch.float32)
    shutil.rmtree(folder / "transformer")
    whole.text.transformer.save_pretrained(folder / "transformer")
    alone = WanRecipe(load_wan(folder, torch.device("cpu"), torch.float32), Shelf(tmp_path))
    with pytest.raises(ModelUnavailable, match=r"config\.first_frame"):
        alone.accept(wan(first_frame="https://a.example/b.png"))
    assert len(list(clip(make(alone, wan())).frames)) == 9
