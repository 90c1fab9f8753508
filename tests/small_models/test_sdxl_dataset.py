"""Pictures, captions and the detector of the small SDXL: each says the same as the others."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import CLIPTokenizer

from small_models.tiny.tokenizers import CLIP_END, write_clip
from small_models.training.sdxl.captions import caption, sentences
from small_models.training.sdxl.classifier import Prediction, classify
from small_models.training.shapes import PALETTE, PLACES, SHAPES, SIZE, Figure, Pixels, Scene, coverage, sample_scene, render

RED_CIRCLE = Scene((Figure("circle", "red", "centre", "large"),), "white", striped=False)
PAIR = Scene((Figure("star", "green", "left", "small"), Figure("ring", "black", "right", "small")), "cyan", striped=False)


def drawn(scene: Scene, seed: int = 0) -> Pixels:
    return render(scene, np.random.default_rng(seed))


def scenes(count: int, **kind: bool | float) -> list[Scene]:
    rng = np.random.default_rng(3)
    return [sample_scene(rng, pairs=float(kind.get("pairs", 0)), held_out=bool(kind.get("held_out", False))) for _ in range(count)]


def test_a_picture_has_the_colors_that_its_scene_names() -> None:
    picture = drawn(RED_CIRCLE)
    assert picture.shape == (SIZE, SIZE, 3)
    assert picture.dtype == np.uint8
    assert tuple(picture[32, 32]) == PALETTE["red"]
    assert tuple(picture[0, 0]) == tuple(picture[-1, -1]) == PALETTE["white"]


def test_a_striped_background_has_two_tones() -> None:
    plain, striped = drawn(RED_CIRCLE), drawn(Scene(RED_CIRCLE.figures, "blue", striped=True))
    assert len(np.unique(plain[:, 0], axis=0)) == 1
    assert len(np.unique(striped[:, 0], axis=0)) == 2


def test_edges_are_smooth() -> None:
    cover = coverage("circle", 32, 32, 18)
    assert ((cover > 0) & (cover < 1)).sum() > 50
    assert cover.sum() == pytest.approx(np.pi * 18**2, rel=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_figure_stays_in_the_picture_at_every_place(shape: str) -> None:
    for place in PLACES:
        figure = Figure(shape, "red", place, "large")
        picture = drawn(Scene((figure,), "white", striped=False))
        middle = drawn(Scene((Figure(shape, "red", "centre", "large"),), "white", striped=False))
        assert (picture != 245).any(-1).sum() == pytest.approx((middle != 245).any(-1).sum(), rel=0.1)


def test_the_same_seed_draws_the_same_picture_and_another_seed_another() -> None:
    assert np.array_equal(drawn(PAIR, 1), drawn(PAIR, 1))
    assert not np.array_equal(drawn(PAIR, 1), drawn(PAIR, 2))


def test_about_a_tenth_of_all_combinations_is_held_out() -> None:
    every = [
        Scene((Figure(shape, color, place, "small"),), background, striped=False)
        for shape in SHAPES
        for color in PALETTE
        for place in PLACES
        for background in PALETTE
        if background != color
    ]
    assert 0.08 < np.mean([scene.held_out for scene in every]) < 0.12


@pytest.mark.parametrize("held_out", [False, True])
def test_drawn_scenes_are_of_the_part_that_was_asked_for(held_out: bool) -> None:
    assert {scene.held_out for scene in scenes(50, held_out=held_out)} == {held_out}


def test_a_caption_names_what_is_shown() -> None:
    rng = np.random.default_rng(0)
    for scene in scenes(200, pairs=0.3):
        words = caption(scene, rng)
        for figure in scene.figures:
            assert f"{figure.color} {figure.shape}" in words
            assert figure.place == "centre" or figure.place in words
        assert scene.background in words or (scene.background == "white" and not scene.striped)
        assert ("strip" in words) == scene.striped


def test_a_scene_has_many_captions() -> None:
    rng = np.random.default_rng(0)
    assert len({caption(PAIR, rng) for _ in range(100)}) > 30


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_clip(folder, pad=CLIP_END, sentences=sentences(), window=32)
    made: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return made


def test_every_word_about_one_figure_is_one_token(tokenizer: CLIPTokenizer) -> None:
    rng = np.random.default_rng(1)
    for scene in scenes(100):
        words = caption(scene, rng).replace(",", " ,").split()
        assert len(tokenizer(" ".join(words)).input_ids) == len(words) + 2


def test_a_caption_of_two_figures_fits_into_the_window(tokenizer: CLIPTokenizer) -> None:
    rng = np.random.default_rng(1)
    assert max(len(tokenizer(caption(scene, rng)).input_ids) for scene in scenes(300, pairs=1)) <= 32


@pytest.mark.parametrize("attribute", ["background", "color", "shape", "place"])
def test_the_detector_reads_rendered_pictures(attribute: str) -> None:
    rng = np.random.default_rng(5)
    wanted = scenes(150)
    right = [
        getattr(classify(render(scene, rng)), attribute)
        == (scene.background if attribute == "background" else getattr(scene.figures[0], attribute))
        for scene in wanted
    ]
    assert np.mean(right) >= 0.98


def test_the_detector_reads_two_figures_half_by_half() -> None:
    picture = drawn(PAIR)
    left = classify(picture, region=(slice(None), slice(0, 32)))
    right = classify(picture, region=(slice(None), slice(32, 64)))
    assert (left.background, left.color, left.shape) == ("cyan", "green", "star")
    assert (right.background, right.color, right.shape) == ("cyan", "black", "ring")


def test_the_detector_finds_no_figure_in_an_empty_picture() -> None:
    assert classify(np.full((SIZE, SIZE, 3), PALETTE["blue"], np.uint8)) == Prediction("blue")
