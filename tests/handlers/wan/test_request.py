"""What a WAN request may ask for."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.wan.clip_sizes import is_legal, nearest_legal
from handlers.wan.request import WanOperator
from shared.contract.sizes import Size
from tests.shared.contract.requests import problem, problems, wan

URL = "https://example.com/a.png"


@pytest.mark.parametrize(
    ("job_type", "steps", "guidance", "frames"),
    [
        ("image_fast", 25, 6.5, 1),
        ("image_high", 50, 7.5, 1),
        ("video_fast", 25, 6.5, 83),
        ("video_high", 50, 7.5, 83),
        ("wan_generate", 50, 7.5, 83),
    ],
)
def test_steps_guidance_and_frames_depend_on_the_type(job_type: str, steps: int, guidance: float, frames: int) -> None:
    request = wan(type=job_type)
    assert (request.steps, request.guidance_scale, request.frames) == (steps, guidance, frames)
    assert request.is_image == job_type.startswith("image")


def test_what_is_not_asked_for_has_its_default() -> None:
    request = wan()
    assert (request.width, request.height, request.fps) == (480, 832, 24)
    assert (request.sample_solver, request.sample_shift, request.reference_mode, request.reference_strength) == ("unipc", 5.0, "none", 0.5)
    assert 1 <= request.seed <= 2_147_483_647


@pytest.mark.parametrize(("name", "plain"), [("wan_video_fast", "video_fast"), ("wan_video_high", "video_high")])
def test_the_long_names_of_types_mean_the_plain_ones(name: str, plain: str) -> None:
    request = wan(type=name)
    assert (request.type, request.warnings) == (plain, ())


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize("speed", ["fast", "high"])
def test_an_enhanced_type_is_done_as_the_plain_one_with_a_warning(kind: str, speed: str) -> None:
    request = wan(type=f"{kind}7b_{speed}_enhanced")
    assert request.type == f"{kind}_{speed}"
    assert "because no prompt is rewritten here" in request.warnings[0]


@pytest.mark.parametrize(("resolution", "size"), [("1024x576", (832, 480)), ("576x1024", (480, 832)), ("1024x1024", (624, 624))])
def test_a_resolution_is_an_aspect_and_its_mapping_is_named(resolution: str, size: tuple[int, int]) -> None:
    request = wan(resolution=resolution)
    assert (request.width, request.height) == size
    assert request.warnings == (f"resolution: {resolution} is not a size of clips; {size[0]}x{size[1]}, the nearest legal one, is used",)


def test_a_resolution_that_is_legal_is_used_as_it_is() -> None:
    request = wan(config={"resolution": "512x512"})
    assert (request.width, request.height, request.warnings) == (512, 512, ())


@pytest.mark.parametrize("config", [{"size": "480*832"}, {"size": "480x832"}, {"width": 480, "height": 832}])
def test_an_explicit_size_wins_over_resolution(config: dict[str, Any]) -> None:
    request = wan(config=config, resolution="1024x1024")
    assert (request.width, request.height, request.warnings) == (480, 832, ())


def test_width_and_height_win_over_size() -> None:
    request = wan(config={"size": "480*832", "width": 64, "height": 64})
    assert (request.width, request.height) == (64, 64)


def test_an_illegal_explicit_size_is_refused_never_mapped() -> None:
    assert problem(wan, config={"size": "1280*720"}).nearest == "832x480"
    assert problem(wan, config={"width": 1280, "height": 720}).sent == '"1280x720"'
    assert problem(wan, config={"width": 100}).nearest == "96"
    assert problem(wan, config={"width": 8}).nearest == "16"


def test_the_operator_may_allow_larger_clips() -> None:
    large = WanOperator(max_area=1280 * 720)
    assert wan(large, config={"size": "1280*720"}).width == 1280
    assert wan(large, resolution="1024x576").warnings == ()


def test_an_operator_who_allows_only_small_clips_gets_a_small_default() -> None:
    request = wan(WanOperator(max_area=64 * 64))
    assert is_legal(Size(request.width, request.height), 64 * 64)


@pytest.mark.parametrize("size", [Size(1, 999_999), Size(999_999, 1), Size(1, 1), Size(999_999, 999_999), Size(1920, 1080), Size(999, 17)])
@pytest.mark.parametrize("area", [256, 4096, 399_360, 921_600])
def test_the_nearest_legal_size_is_legal(size: Size, area: int) -> None:
    assert is_legal(nearest_legal(size, area), area)


@pytest.mark.parametrize(("resolution", "size"), [("1x999999", (16, 8192)), ("999999x1", (8192, 16))])
def test_an_aspect_beyond_all_sides_becomes_one_that_a_clip_may_have(resolution: str, size: tuple[int, int]) -> None:
    request = wan(resolution=resolution)
    assert (request.width, request.height) == size


@pytest.mark.parametrize("size", ["16*24960", "24960x16"])
def test_a_size_with_a_side_that_is_too_long_is_refused_where_it_was_given(size: str) -> None:
    assert problem(wan, config={"size": size}).field == "config.size"


@pytest.mark.parametrize(
    ("name", "value", "nearest"), [("frames", 84, "83"), ("frames", 0, "1"), ("fps", 7, "8"), ("fps", 25, "24"), ("steps", 51, "50")]
)
def test_a_number_outside_its_range_is_answered_with_the_nearest_end(name: str, value: int, nearest: str) -> None:
    assert problem(wan, config={name: value}).nearest == nearest


@pytest.mark.parametrize(
    ("name", "value"), [("sample_shift", 12.1), ("sample_shift", 0.9), ("guidance_scale", 0.5), ("sample_solver", "ddim")]
)
def test_what_is_not_in_its_set_is_refused(name: str, value: Any) -> None:
    assert problem(wan, config={name: value}).field == f"config.{name}"


def test_a_picture_has_one_frame_and_another_wish_is_answered_with_a_warning() -> None:
    request = wan(type="image_fast", config={"frames": 17})
    assert (request.frames, request.warnings) == (1, ("config.frames: image_fast makes 1 frame",))


def test_the_operator_sets_the_rate_of_those_who_ask_for_none() -> None:
    operator = WanOperator(default_fps=16)
    assert wan(operator).fps == 16
    assert wan(operator, config={"fps": 10}).fps == 10


@pytest.mark.parametrize(
    ("references", "mode"),
    [
        ({"config": {"image": URL}}, "single"),
        ({"config": {"first_frame": URL}}, "start"),
        ({"config": {"last_frame": URL}}, "end"),
        ({"config": {"first_frame": URL, "last_frame": URL}}, "both"),
        ({"metadata": {"reference_image_url": URL}}, "single"),
        ({"metadata": {"start_reference_url": URL, "end_reference_url": URL}}, "both"),
    ],
)
def test_the_references_that_are_given_say_the_mode(references: dict[str, Any], mode: str) -> None:
    assert wan(**references).reference_mode == mode


def test_references_are_reported_by_their_canonical_names() -> None:
    request = wan(metadata={"start_reference_url": URL, "end_reference_url": "u/j/0.png", "video_reference_mode": "both"})
    assert [*request.references] == ["config.first_frame", "config.last_frame"]


@pytest.mark.parametrize(
    ("mode", "missing"),
    [("single", "config.image"), ("start", "config.first_frame"), ("end", "config.last_frame"), ("both", "config.first_frame")],
)
def test_a_mode_without_its_reference_is_refused(mode: str, missing: str) -> None:
    assert missing in problem(wan, config={"reference_mode": mode}).allowed


@pytest.mark.parametrize("mode", ["none", "start", "both"])
def test_a_mode_that_would_ignore_a_reference_is_refused(mode: str) -> None:
    found = problem(wan, config={"reference_mode": mode, "image": URL})
    assert "would ignore config.image" in found.allowed
    assert found.nearest == "single"


def test_a_single_reference_does_not_stand_beside_others() -> None:
    assert problem(wan, config={"image": URL, "last_frame": URL}).field == "config.reference_mode"


def test_a_wrong_reference_is_blamed_alone_not_the_mode_that_needs_it() -> None:
    assert [*problems(wan, config={"first_frame": 5, "reference_mode": "start"})] == ["config.first_frame"]


def test_the_words_of_sdxl_in_metadata_say_nothing_about_a_clip() -> None:
    assert wan(config={"image": URL}, metadata={"reference_mode": "modify"}).reference_mode == "single"


def test_a_clip_needs_a_prompt() -> None:
    assert problem(wan, prompt="").sent == "an empty string"
    assert problem(wan, prompt=None).sent == "nothing"


@pytest.mark.parametrize("side", [16 * 10**400, 16 * 10**307, 10**200, 8208])
def test_a_size_beyond_all_bounds_is_a_problem_and_nothing_else(side: int) -> None:
    for config in ({"width": side, "height": 16}, {"width": side, "height": side}):
        found = problems(wan, config=config)
        assert found["config.width"].nearest == "8192"
        assert len(found["config.width"].sent) < 60


def test_the_other_side_of_a_lone_one_is_named() -> None:
    assert wan(config={"width": 480, "resolution": "1024x576"}).warnings == ("config.height: 480, because only width is given",)


def test_a_picture_has_no_rate() -> None:
    assert any("fps" in warning for warning in wan(type="image_fast", config={"fps": 10}).warnings)
    assert wan(type="video_fast", config={"fps": 10}).warnings == ()


def test_a_negative_prompt_has_the_limit_of_a_prompt() -> None:
    assert wan(negative_prompt="x" * 10_000).negative_prompt == "x" * 10_000
    assert problem(wan, negative_prompt="x" * 10_001).sent == "a string of 10 001 characters"
