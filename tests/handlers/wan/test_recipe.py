"""Text-to-video on the small model: every accepted setting has an effect."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from handlers.wan.features.scheduler import make_scheduler
from handlers.wan.recipe import WanRecipe
from handlers.wan.request import WanRequest
from handlers.wan.sizes import padded_frames
from shared.errors import Cancelled
from shared.jobs.recipe import Recipe
from shared.models.pipelines import with_scheduler
from tests.handlers.conftest import RecordedRun, clip, generate, image_outputs, wan

Wan = Recipe[WanRequest]


def frames(recipe: Wan, request: WanRequest) -> NDArray[np.uint8]:
    return np.stack(list(clip(generate(recipe, request)).frames))


def test_the_same_request_makes_the_same_clip(wan_recipe: Wan) -> None:
    assert np.array_equal(frames(wan_recipe, wan()), frames(wan_recipe, wan()))


@pytest.mark.parametrize("count", [2, 4, 5, 7, 9, 10])
def test_a_clip_has_exactly_the_requested_number_of_frames(wan_recipe: Wan, count: int) -> None:
    assert frames(wan_recipe, wan(frames=count)).shape == (count, 64, 64, 3)


@pytest.mark.parametrize(("requested", "padded"), [(1, 1), (2, 5), (5, 5), (6, 9), (81, 81), (82, 85), (83, 85)])
def test_a_length_is_padded_to_the_next_one_that_wan_supports(requested: int, padded: int) -> None:
    assert padded_frames(requested) == padded


def test_a_cut_clip_is_the_start_of_the_longer_one(wan_recipe: Wan) -> None:
    assert np.array_equal(frames(wan_recipe, wan(frames=7)), frames(wan_recipe, wan(frames=9))[:7])


def test_width_and_height_are_not_swapped(wan_recipe: Wan) -> None:
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
def test_every_setting_changes_the_clip(wan_recipe: Wan, request_: WanRequest) -> None:
    assert not np.array_equal(frames(wan_recipe, request_), frames(wan_recipe, wan()))


def test_the_shift_has_an_effect_with_every_scheduler(wan_recipe: Wan) -> None:
    for name in ("unipc", "dpm++", "euler"):
        other = wan(sample_solver=name, sample_shift=9.0)
        assert not np.array_equal(frames(wan_recipe, wan(sample_solver=name)), frames(wan_recipe, other)), name


@pytest.mark.parametrize(("negative", "guidance", "count"), [("blurry", 1.0, 1), ("blurry", 1.5, 0), ("", 1.0, 0), (None, 1.0, 0)])
def test_a_negative_prompt_without_guidance_is_named_in_a_warning(
    wan_recipe: Wan, negative: str | None, guidance: float, count: int
) -> None:
    recorded = RecordedRun()
    generate(wan_recipe, wan(negative_prompt=negative, guidance_scale=guidance, steps=1, frames=1), recorded)
    assert recorded.run.warnings == ["`negative_prompt` has no effect, because `config.guidance_scale` is 1"] * count


def test_the_frame_rate_does_not_change_the_frames(wan_recipe: Wan) -> None:
    slow, fast = (clip(generate(wan_recipe, wan(fps=fps))) for fps in (8, 24))
    assert (slow.fps, fast.fps) == (8, 24)
    assert np.array_equal(np.stack(list(slow.frames)), np.stack(list(fast.frames)))


def test_a_long_prompt_is_not_truncated(wan_recipe: Wan) -> None:
    long = "a red circle and a blue square on a green ground, " * 60
    dawn, dusk = (frames(wan_recipe, wan(long + word, frames=1, steps=2, kind="video_fast")) for word in ("at dawn", "at dusk"))
    assert not np.array_equal(dawn, dusk)


@pytest.mark.parametrize("kind", ["image_fast", "image_high"])
def test_an_image_is_one_frame(wan_recipe: Wan, kind: str) -> None:
    (image,) = image_outputs(generate(wan_recipe, wan(kind=kind)))
    assert image.pixels.shape == (64, 64, 3)
    assert image.format == "png"


def test_a_cancelled_job_stops_at_the_next_step_and_does_not_affect_later_jobs(wan_recipe: Wan) -> None:
    before = frames(wan_recipe, wan())
    recorded = RecordedRun(stop_at=2)
    with pytest.raises(Cancelled):
        generate(wan_recipe, wan(steps=50, sample_solver="euler"), recorded)
    assert recorded.steps[-1][0] <= 3
    assert np.array_equal(frames(wan_recipe, wan()), before)


def test_the_scheduler_is_restored_after_success_and_failure(wan_recipe: Wan) -> None:
    assert isinstance(wan_recipe, WanRecipe)
    pipeline = wan_recipe._pipelines.text_to_video
    before = pipeline.scheduler

    def fail() -> None:
        with with_scheduler(pipeline, make_scheduler("euler", 5.0)):
            assert pipeline.scheduler is not before
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert pipeline.scheduler is before
