"""Clips, captions and the detector of the small WAN: each says the same as the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from small_models.training.shapes import PALETTE, SIZE, Pixels
from small_models.training.wan.captions import caption, colorless, sentences
from small_models.training.wan.classifier import ClipPrediction, centre, classify_clip
from small_models.training.wan.dataset import MOTIONS, SHAPES, SPEED, Scene, draw, sample_scene, render
from small_models.training.wan.text_encoder import write_tokenizer

RIGHT = Scene("circle", "red", "right", "blue")


def rendered(scene: Scene, frames: int = 9, seed: int = 0) -> Pixels:
    return render(scene, frames, np.random.default_rng(seed))


def scenes(count: int, *, held_out: bool = False) -> list[Scene]:
    rng = np.random.default_rng(3)
    return [sample_scene(rng, held_out=held_out) for _ in range(count)]


def test_a_clip_has_the_colors_that_its_scene_names() -> None:
    clip = rendered(RIGHT)
    assert clip.shape == (9, SIZE, SIZE, 3)
    assert clip.dtype == np.uint8
    assert tuple(clip[4, 32, 32]) == PALETTE["red"]
    assert (clip[:, [0, -1]] == PALETTE["blue"]).all()


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_figure_moves_by_its_speed_in_each_frame(motion: str) -> None:
    clip = rendered(Scene("square", "black", motion, "white"), 17)
    places = np.array([centre(frame, "white", "black") for frame in clip])
    assert np.diff(places, axis=0).mean(0) == pytest.approx(SPEED * np.array(MOTIONS[motion]), abs=0.2)


@pytest.mark.parametrize("motion", MOTIONS)
def test_nearly_all_of_a_figure_stays_in_the_picture(motion: str) -> None:
    for seed in range(10):
        clip = rendered(Scene("circle", "black", motion, "white"), 17, seed)
        covered = (clip[..., 0] < 130).sum((1, 2))
        assert covered.min() > 0.85 * covered.max()


def test_the_same_seed_draws_the_same_clip_and_another_seed_another() -> None:
    assert np.array_equal(rendered(RIGHT, seed=1), rendered(RIGHT, seed=1))
    assert not np.array_equal(rendered(RIGHT, seed=1), rendered(RIGHT, seed=2))


def test_about_a_tenth_of_all_combinations_is_held_out() -> None:
    every = [
        Scene(shape, color, motion, background)
        for shape in SHAPES
        for color in PALETTE
        for motion in MOTIONS
        for background in PALETTE
        if background != color
    ]
    assert 0.08 < np.mean([scene.held_out for scene in every]) < 0.12


@pytest.mark.parametrize("held_out", [False, True])
def test_drawn_scenes_are_of_the_part_that_was_asked_for(held_out: bool) -> None:
    assert {scene.held_out for scene in scenes(50, held_out=held_out)} == {held_out}


def test_a_caption_names_what_is_shown() -> None:
    rng = np.random.default_rng(0)
    for scene in scenes(200):
        words = caption(scene, rng)
        assert f"{scene.color} {scene.shape}" in words.lower()
        assert scene.motion == "still" or scene.motion in words.replace("to the top", "up").replace("to the bottom", "down")
        assert scene.background in words or scene.background == "white"


def test_a_scene_has_many_captions() -> None:
    rng = np.random.default_rng(0)
    assert len({caption(RIGHT, rng) for _ in range(100)}) > 60


def test_a_caption_without_colors_leaves_them_to_a_picture() -> None:
    rng = np.random.default_rng(0)
    said = [colorless(scene, rng) for scene in scenes(200)]
    assert not [words for words in said if any(color in words for color in PALETTE)]
    assert all(said)
    assert {shape for shape in SHAPES if any(shape in words for words in said)} == set(SHAPES)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_every_word_of_a_caption_is_one_token(tokenizer: Any) -> None:
    rng = np.random.default_rng(1)
    for scene in scenes(100):
        words = caption(scene, rng)
        ids = tokenizer(words).input_ids
        assert tokenizer.unk_token_id not in ids
        assert len(ids) == len(words.split()) + 1


def test_another_process_writes_the_same_tokenizer(tokenizer: Any, tmp_path: Path) -> None:
    assert write_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()
    assert len(sentences()) > 1000


@pytest.mark.parametrize("frames", [5, 9, 17])
def test_the_detector_reads_rendered_clips(frames: int) -> None:
    for number, scene in enumerate(scenes(8)):
        assert classify_clip(rendered(scene, frames, number)) == ClipPrediction(scene.background, scene.color, scene.shape, scene.motion), scene


def test_the_detector_reads_a_clip_backwards_as_the_opposite_motion() -> None:
    assert classify_clip(rendered(RIGHT)[::-1]).motion == "left"


def test_the_detector_finds_no_figure_in_an_empty_clip() -> None:
    assert classify_clip(np.full((9, SIZE, SIZE, 3), PALETTE["blue"], np.uint8)) == ClipPrediction("blue")


def test_the_detector_sees_no_motion_where_the_figure_is_not_in_every_frame() -> None:
    clip = rendered(RIGHT)
    clip[4] = PALETTE["blue"]
    assert classify_clip(clip) == ClipPrediction("blue", "red", "circle")


def test_the_middle_of_a_figure_is_where_it_was_drawn() -> None:
    assert centre(draw(RIGHT, 20, 40), "blue", "red") == pytest.approx((20, 40), abs=0.6)
