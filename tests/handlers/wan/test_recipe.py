"""WAN, text → video, on the small model: every value that is accepted acts."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from handlers.wan.features.scheduler import make_solver
from handlers.wan.recipe import made_frames
from handlers.wan.request import WanRequest
from shared.errors import Cancelled
from shared.jobs.recipe import Recipe
from shared.models.pipelines import scheduled_by
from tests.handlers.conftest import Watched, clip, make, pictures, wan

Wan = Recipe[WanRequest]


def frames(recipe: Wan, request: WanRequest) -> NDArray[np.uint8]:
    return np.stack(list(clip(make(recipe, request)).frames))


def test_the_same_request_makes_the_same_clip(wan_recipe: Wan) -> None:
    assert np.array_equal(frames(wan_recipe, wan()), frames(wan_recipe, wan()))


@pytest.mark.parametrize("count", [2, 4, 5, 7, 9, 10])
def test_a_clip_has_exactly_the_frames_that_were_asked_for(wan_recipe: Wan, count: int) -> None:
    assert frames(wan_recipe, wan(frames=count)).shape == (count, 64, 64, 3)


@pytest.mark.parametrize(("asked", "made"), [(1, 1), (2, 5), (5, 5), (6, 9), (81, 81), (82, 85), (83, 85)])
def test_a_clip_is_made_at_the_next_length_that_wan_has(asked: int, made: int) -> None:
    assert made_frames(asked) == made


def test_a_cut_clip_is_the_beginning_of_the_longer_one(wan_recipe: Wan) -> None:
    assert np.array_equal(frames(wan_recipe, wan(frames=7)), frames(wan_recipe, wan(frames=9))[:7])


def test_width_and_height_are_not_mixed_up(wan_recipe: Wan) -> None:
    assert frames(wan_recipe, wan(width=96, frames=5)).shape == (5, 64, 96, 3)


@pytest.mark.parametrize(
    "request_",
    [
        wan("a blue square"),
        wan(negative_prompt="blurry"),
        wan(steps=4),
        wan(guidance_scale=12.0),
        wan(guidance_scale=1.0),
        wan(seed=8),
        wan(sample_solver="dpm++"),
        wan(sample_solver="euler"),
        wan(sample_shift=2.0),
        wan(sample_solver="dpm++", sample_shift=2.0),
    ],
    ids=lambda request: f"{request.sample_solver} {request.sample_shift} {request.steps} {request.guidance_scale} {request.seed}",
)
def test_every_value_changes_the_clip(wan_recipe: Wan, request_: WanRequest) -> None:
    assert not np.array_equal(frames(wan_recipe, request_), frames(wan_recipe, wan()))


def test_the_shift_acts_for_every_solver(wan_recipe: Wan) -> None:
    for solver in ("unipc", "dpm++", "euler"):
        other = wan(sample_solver=solver, sample_shift=9.0)
        assert not np.array_equal(frames(wan_recipe, wan(sample_solver=solver)), frames(wan_recipe, other)), solver


def test_the_rate_changes_how_a_clip_is_played_and_not_how_it_is_made(wan_recipe: Wan) -> None:
    slow, fast = (clip(make(wan_recipe, wan(fps=fps))) for fps in (8, 24))
    assert (slow.fps, fast.fps) == (8, 24)
    assert np.array_equal(np.stack(list(slow.frames)), np.stack(list(fast.frames)))


def test_no_word_of_a_long_prompt_is_cut(wan_recipe: Wan) -> None:
    long = "a red circle and a blue square on a green ground, " * 60
    dawn, dusk = (frames(wan_recipe, wan(long + word, frames=1, steps=2, kind="video_fast")) for word in ("at dawn", "at dusk"))
    assert not np.array_equal(dawn, dusk)


@pytest.mark.parametrize("kind", ["image_fast", "image_high"])
def test_an_image_is_one_frame(wan_recipe: Wan, kind: str) -> None:
    (picture,) = pictures(make(wan_recipe, wan(kind=kind)))
    assert picture.pixels.shape == (64, 64, 3)
    assert picture.format == "png"


def test_a_stopped_job_ends_at_its_step_and_leaves_no_trace(wan_recipe: Wan) -> None:
    before = frames(wan_recipe, wan())
    watched = Watched(stop_at=2)
    with pytest.raises(Cancelled):
        make(wan_recipe, wan(steps=50, sample_solver="euler"), watched)
    assert watched.steps[-1][0] <= 3
    assert np.array_equal(frames(wan_recipe, wan()), before)


def test_a_solver_comes_off_again_whatever_happens(wan_recipe: Wan) -> None:
    from handlers.wan.recipe import WanRecipe

    assert isinstance(wan_recipe, WanRecipe)
    pipeline = wan_recipe._pipelines.text
    before = pipeline.scheduler

    def fail() -> None:
        with scheduled_by(pipeline, make_solver("euler", 5.0)):
            assert pipeline.scheduler is not before
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        fail()
    assert pipeline.scheduler is before
