"""The synthetic datasets: the classifiers read rendered scenes, captions describe them, and the committed tokenizers are reproducible."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from small_models.training.sdxl import captions as sdxl_captions
from small_models.training.sdxl import dataset as sdxl
from small_models.training.sdxl.classifier import Prediction, classify
from small_models.training.sdxl.text_encoders import CLASS_COUNTS, attribute_labels, write_tokenizers
from small_models.training.shapes import PALETTE, SIZE
from small_models.training.wan import captions as wan_captions
from small_models.training.wan import dataset as wan
from small_models.training.wan.classifier import ClipPrediction, classify_clip
from small_models.training.wan.text_encoder import write_tokenizer

_PAIR = sdxl.Scene((sdxl.Figure("star", "green", "left", "small"), sdxl.Figure("ring", "black", "right", "small")), "cyan", striped=False)
_MOVING_RIGHT = wan.Scene("circle", "red", "right", "blue")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_image_classifier_reads_every_attribute_of_rendered_scenes() -> None:
    random = rng(5)
    scenes = [sdxl.sample_scene(random) for _ in range(150)]
    correct = []
    for scene in scenes:
        (figure,), prediction = scene.figures, classify(sdxl.render(scene, random))
        correct.append(prediction == Prediction(scene.background, figure.color, figure.shape, figure.place))
    assert np.mean(correct) >= 0.98


def test_the_image_classifier_reads_two_figures_one_half_at_a_time() -> None:
    image = sdxl.render(_PAIR, rng())
    left, right = (classify(image, region=(slice(None), columns)) for columns in (slice(0, 32), slice(32, 64)))
    assert (left.background, left.color, left.shape) == ("cyan", "green", "star")
    assert (right.background, right.color, right.shape) == ("cyan", "black", "ring")


@pytest.mark.parametrize("frames", [5, 9, 17])
def test_the_clip_classifier_reads_every_attribute_of_rendered_scenes(frames: int) -> None:
    random = rng(3)
    for seed, scene in enumerate(wan.sample_scene(random) for _ in range(8)):
        prediction = classify_clip(wan.render(scene, frames, rng(seed)))
        assert prediction == ClipPrediction(scene.background, scene.color, scene.shape, scene.motion), scene


def test_the_clip_classifier_reads_a_reversed_clip_as_the_opposite_motion_and_no_motion_if_a_frame_lacks_the_figure() -> None:
    clip = wan.render(_MOVING_RIGHT, 9, rng())
    assert classify_clip(clip[::-1]).motion == "left"
    clip[4] = PALETTE["blue"]
    assert classify_clip(clip) == ClipPrediction("blue", "red", "circle")


def test_the_classifiers_find_no_figure_in_an_empty_frame() -> None:
    empty = np.full((9, SIZE, SIZE, 3), PALETTE["blue"], np.uint8)
    assert classify(empty[0]) == Prediction("blue")
    assert classify_clip(empty) == ClipPrediction("blue")


def test_a_tenth_of_all_combinations_is_held_out_and_sampling_respects_the_split() -> None:
    backgrounds = [(background, color) for background, color in product(PALETTE, PALETTE) if background != color]
    images = [
        sdxl.Scene((sdxl.Figure(shape, color, place, "small"),), background, striped=False)
        for (background, color), shape, place in product(backgrounds, sdxl.SHAPES, sdxl.PLACES)
    ]
    clips = [
        wan.Scene(shape, color, motion, background) for (background, color), shape, motion in product(backgrounds, wan.SHAPES, wan.MOTIONS)
    ]
    assert np.mean([scene.held_out for scene in images]) == pytest.approx(0.1, abs=0.02)
    assert np.mean([scene.held_out for scene in clips]) == pytest.approx(0.1, abs=0.02)
    random = rng()
    assert all(sdxl.sample_scene(random, held_out=True).held_out for _ in range(30))
    assert not any(wan.sample_scene(random).held_out for _ in range(30))


def test_a_caption_names_the_attributes_of_its_scene() -> None:
    random = rng()
    for _ in range(200):
        scene = sdxl.sample_scene(random, pairs=0.3)
        text = sdxl_captions.caption(scene, random)
        assert all(f"{figure.color} {figure.shape}" in text for figure in scene.figures)
        assert all(figure.place == "centre" or figure.place in text for figure in scene.figures)
        assert scene.background in text or (scene.background == "white" and not scene.striped)
        assert ("strip" in text) == scene.striped
    for _ in range(200):
        clip = wan.sample_scene(random)
        text = wan_captions.caption(clip, random)
        assert f"{clip.color} {clip.shape}" in text.lower()
        assert clip.motion == "still" or clip.motion in text.replace("to the top", "up").replace("to the bottom", "down")
        assert clip.background in text or clip.background == "white"
        assert not [color for color in PALETTE if color in wan_captions.caption_without_colors(clip, random)]


def test_attribute_labels_mark_an_absent_second_figure_with_the_last_class() -> None:
    colors, places = list(PALETTE), list(sdxl.PLACES)
    star = [sdxl.SHAPES.index("star"), colors.index("green"), places.index("left")]
    ring = [sdxl.SHAPES.index("ring"), colors.index("black"), places.index("right")]
    assert attribute_labels(_PAIR) == [colors.index("cyan"), 0, *star, *ring]
    single = attribute_labels(sdxl.Scene(_PAIR.figures[:1], "cyan", striped=True))
    assert single == [colors.index("cyan"), 1, *star, *(count - 1 for count in CLASS_COUNTS[5:])]


def test_the_committed_tokenizers_are_reproduced_byte_for_byte(small_models: Path, tmp_path: Path) -> None:
    write_tokenizers(tmp_path / "sdxl")
    write_tokenizer(tmp_path / "wan" / "tokenizer")
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 8
    assert [path for path in written if (tmp_path / path).read_bytes() != (small_models / path).read_bytes()] == []
