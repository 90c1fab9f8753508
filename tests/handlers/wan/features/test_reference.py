"""Each reference mode conditions the expected frames of a clip, on the trained small model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.wan.features.reference import conditioning_scale, vace_conditioning
from handlers.wan.recipe import WanRecipe
from handlers.wan.request import WanRequest
from handlers.wan.weights.load import load_wan
from shared.errors import Cancelled, ModelUnavailable
from shared.jobs.recipe import Recipe
from shared.weights.addons import AddonLibrary
from small_models.training.shapes import Pixels
from small_models.training.wan.classifier import classify_clip
from small_models.training.wan.dataset import Scene, render
from small_models.training.wan.evaluation import load_recipe
from tests.handlers.conftest import RecordedRun, clip, generate, image_outputs, wan

Wan = Recipe[WanRequest]
CLIP = render(Scene("circle", "red", "right", "blue"), 9, np.random.default_rng(5))
PROMPT = "a red circle moves to the right on a blue background"
FRAME_INDEX = {"first_frame": 0, "last_frame": -1}
MAX_ERROR = 12.0
"""Mean error of a given frame, in levels of 255: the VAE alone has about 4, and clips of the same prompt differ by more than 15."""


@pytest.fixture(scope="module")
def recipe(small_models: Path) -> Wan:
    return load_recipe(small_models / "wan")


def frames_of(
    recipe: Wan, *given: str, prompt: str = PROMPT, strength: float = 0.5, size: tuple[int, int] = (64, 64), **config: Any
) -> Pixels:
    """Generates a clip with frames of `CLIP`, resized, as references."""
    given_images = {name: Image.fromarray(CLIP[FRAME_INDEX.get(name, 0)]).resize(size, Image.Resampling.NEAREST) for name in given}
    settings = {"steps": 15, "guidance_scale": 3.0, "seed": 6} | {name: "https://a.example/image.png" for name in given} | config
    request = wan(prompt, strength=strength, **settings)
    made = generate(recipe, request, references={f"config.{name}": image for name, image in given_images.items()})
    return np.stack(list(clip(made).frames))


@pytest.fixture(scope="module")
def drawn(recipe: Wan) -> Callable[..., Pixels]:
    """`frames_of` for this recipe. Each clip is generated once: equal requests yield equal clips."""
    return cache(partial(frames_of, recipe))


def error(first: Pixels, second: Pixels) -> float:
    return float(np.abs(first.astype(np.float32) - second).mean())


@pytest.mark.parametrize("given", [("first_frame",), ("last_frame",), ("first_frame", "last_frame")], ids=["start", "end", "both"])
def test_first_and_last_frames_appear_in_the_clip(drawn: Callable[..., Pixels], given: tuple[str, ...]) -> None:
    made, free = drawn(*given), drawn()
    for name in given:
        index = FRAME_INDEX[name]
        assert error(made[index], CLIP[index]) < MAX_ERROR
        assert error(made[index], CLIP[index]) < error(free[index], CLIP[index])


@pytest.mark.parametrize("frames", [7, 8])
def test_a_cut_clip_ends_with_the_last_frame(recipe: Wan, frames: int) -> None:
    made = frames_of(recipe, "last_frame", frames=frames)
    assert len(made) == frames
    assert error(made[-1], CLIP[-1]) < MAX_ERROR


def test_a_first_frame_determines_the_first_frame_of_the_clip(drawn: Callable[..., Pixels]) -> None:
    made, free = drawn("first_frame", prompt="a clip"), drawn(prompt="a clip")
    assert error(made[0], CLIP[0]) < error(free[0], CLIP[0]) / 2


def test_a_single_reference_conditions_the_whole_clip(drawn: Callable[..., Pixels]) -> None:
    made, free = drawn("image", prompt="a clip"), drawn(prompt="a clip")
    assert all(error(made[frame], free[frame]) > 5 for frame in range(9))
    assert error(made, CLIP) < error(free, CLIP) / 2


@pytest.mark.parametrize("given", [("first_frame",), ("last_frame",), ("first_frame", "last_frame"), ("image",)], ids=str)
def test_a_stronger_reference_gives_a_closer_clip(drawn: Callable[..., Pixels], given: tuple[str, ...]) -> None:
    frames = [FRAME_INDEX.get(name, 0) for name in given] if given != ("image",) else list(range(9))
    clips = (drawn(*given, strength=0.0), drawn(*given), drawn(*given, strength=1.0))
    errors = [error(clip[frames], CLIP[frames]) for clip in clips]
    assert errors[0] > errors[1] > errors[2]


def test_a_reference_of_strength_zero_still_has_an_effect(drawn: Callable[..., Pixels]) -> None:
    assert conditioning_scale(0.0) > 0
    assert not np.array_equal(drawn("first_frame", strength=0.0), drawn())


def test_without_references_the_strength_has_no_effect(drawn: Callable[..., Pixels]) -> None:
    assert np.array_equal(drawn(strength=1.0), drawn(strength=0.0))


def test_a_reference_of_another_size_is_center_cropped_and_never_padded(recipe: Wan) -> None:
    wide = np.concatenate([np.zeros_like(CLIP[0]), CLIP[0], np.zeros_like(CLIP[0])], axis=1)
    request = wan(first_frame="https://a.example/image.png")
    given = vace_conditioning(request, {"config.first_frame": Image.fromarray(wide)})
    assert np.array_equal(np.asarray(given.arguments["video"][0]), CLIP[0])
    assert {frame.size for frame in given.arguments["video"]} == {frame.size for frame in given.arguments["mask"]} == {(64, 64)}


def test_frames_to_generate_share_one_image_in_memory() -> None:
    request = wan(first_frame="https://a.example/image.png", frames=81)
    given = vace_conditioning(request, {"config.first_frame": Image.fromarray(CLIP[0])})
    assert len(given.arguments["video"]) == len(given.arguments["mask"]) == 81
    assert len({id(frame) for frame in (*given.arguments["video"], *given.arguments["mask"])}) == 4


def test_an_image_resembles_its_reference(recipe: Wan) -> None:
    prompt = "a picture of a circle"
    settings: dict[str, Any] = {"kind": "image_high", "steps": 15, "guidance_scale": 3.0}
    (free,) = image_outputs(generate(recipe, wan(prompt, **settings)))
    for name in ("image", "first_frame", "last_frame"):
        request, given = wan(prompt, **settings | {name: "https://a.example/image.png"}), {f"config.{name}": Image.fromarray(CLIP[0])}
        (made,) = image_outputs(generate(recipe, request, references=given))
        assert made.pixels.shape == (64, 64, 3)
        assert error(made.pixels, CLIP[0]) < error(free.pixels, CLIP[0]) - 5, name


def test_a_clip_with_a_reference_follows_its_prompt(recipe: Wan) -> None:
    shown = classify_clip(frames_of(recipe, "first_frame", steps=20))
    assert (shown.color, shown.background, shown.motion) == ("red", "blue", "right")


def test_metadata_reports_how_references_were_used(recipe: Wan) -> None:
    request = wan(strength=0.25, steps=2, first_frame="https://a.example/image.png")
    outputs = generate(recipe, request, references={"config.first_frame": Image.fromarray(CLIP[0])})
    metadata = recipe.summarize(request, outputs).metadata
    assert (metadata["reference_mode"], metadata["reference_method"], metadata["reference_strength"]) == ("start", "vace", 0.25)
    assert outputs[0].metadata["conditioning_scale"] == 0.75


def test_references_do_not_affect_later_jobs(recipe: Wan, drawn: Callable[..., Pixels]) -> None:
    before = drawn()
    frames_of(recipe, "first_frame", "last_frame")
    assert np.array_equal(frames_of(recipe), before)


def test_a_cancelled_job_with_references_does_not_affect_later_jobs(recipe: Wan, drawn: Callable[..., Pixels]) -> None:
    before, recorded = drawn(), RecordedRun(stop_at=1)
    request = wan(first_frame="https://a.example/image.png")
    with pytest.raises(Cancelled):
        generate(recipe, request, recorded, references={"config.first_frame": Image.fromarray(CLIP[0])})
    assert np.array_equal(frames_of(recipe), before)


def test_a_text_to_video_model_refuses_references_by_field(small_models: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small_models / "wan", tmp_path / "wan"))
    complete = load_wan(folder, torch.device("cpu"), torch.float32)
    shutil.rmtree(folder / "transformer")
    complete.text_to_video.transformer.save_pretrained(folder / "transformer")
    text_only = WanRecipe(load_wan(folder, torch.device("cpu"), torch.float32), AddonLibrary(tmp_path))
    with pytest.raises(ModelUnavailable, match=r"config\.first_frame"):
        text_only.check(wan(first_frame="https://a.example/b.png"))
    assert len(list(clip(generate(text_only, wan())).frames)) == 9
