"""Validation, defaults and aliases of WAN requests."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.wan.request import WanOperator
from handlers.wan.sizes import is_valid, nearest_valid
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


def test_omitted_fields_have_their_defaults() -> None:
    request = wan()
    assert (request.width, request.height, request.fps) == (480, 832, 24)
    assert (request.sample_solver, request.sample_shift, request.reference_mode, request.reference_strength) == ("unipc", 5.0, "none", 0.5)
    assert 1 <= request.seed <= 2_147_483_647


@pytest.mark.parametrize(("name", "plain"), [("wan_video_fast", "video_fast"), ("wan_video_high", "video_high")])
def test_long_type_names_are_aliases(name: str, plain: str) -> None:
    request = wan(type=name)
    assert (request.type, request.warnings) == (plain, ())


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize("speed", ["fast", "high"])
def test_an_enhanced_type_is_an_alias_with_a_warning(kind: str, speed: str) -> None:
    request = wan(type=f"{kind}7b_{speed}_enhanced")
    assert request.type == f"{kind}_{speed}"
    assert "does not rewrite prompts" in request.warnings[0]


@pytest.mark.parametrize(("resolution", "size"), [("1024x576", (832, 480)), ("576x1024", (480, 832)), ("1024x1024", (624, 624))])
def test_a_resolution_is_mapped_to_the_nearest_valid_size_with_a_warning(resolution: str, size: tuple[int, int]) -> None:
    request = wan(resolution=resolution)
    assert (request.width, request.height) == size
    assert request.warnings == (f"`resolution` {resolution} is not a valid clip size; the nearest one, {size[0]}x{size[1]}, was used",)


def test_a_valid_resolution_is_used_unchanged() -> None:
    request = wan(config={"resolution": "512x512"})
    assert (request.width, request.height, request.warnings) == (512, 512, ())


@pytest.mark.parametrize("config", [{"size": "480*832"}, {"size": "480x832"}, {"width": 480, "height": 832}])
def test_size_takes_precedence_over_resolution(config: dict[str, Any]) -> None:
    request = wan(config=config, resolution="1024x1024")
    assert (request.width, request.height, request.warnings) == (480, 832, ())


def test_width_and_height_take_precedence_over_size() -> None:
    request = wan(config={"size": "480*832", "width": 64, "height": 64})
    assert (request.width, request.height) == (64, 64)


def test_an_invalid_explicit_size_is_rejected_and_never_mapped() -> None:
    assert problem(wan, config={"size": "1280*720"}).nearest == "832x480"
    assert problem(wan, config={"width": 1280, "height": 720}).sent == '"1280x720"'
    assert problem(wan, config={"width": 100}).nearest == "96"
    assert problem(wan, config={"width": 8}).nearest == "16"


def test_the_operator_may_allow_larger_clips() -> None:
    large = WanOperator(max_area=1280 * 720)
    assert wan(large, config={"size": "1280*720"}).width == 1280
    assert wan(large, resolution="1024x576").warnings == ()


def test_the_default_size_respects_the_operators_limit() -> None:
    request = wan(WanOperator(max_area=64 * 64))
    assert is_valid(Size(request.width, request.height), 64 * 64)


@pytest.mark.parametrize("size", [Size(1, 999_999), Size(999_999, 1), Size(1, 1), Size(999_999, 999_999), Size(1920, 1080), Size(999, 17)])
@pytest.mark.parametrize("area", [256, 4096, 399_360, 921_600])
def test_the_nearest_valid_size_is_valid(size: Size, area: int) -> None:
    assert is_valid(nearest_valid(size, area), area)


@pytest.mark.parametrize(("resolution", "size"), [("1x999999", (16, 8192)), ("999999x1", (8192, 16))])
def test_an_extreme_aspect_ratio_is_mapped_to_a_valid_size(resolution: str, size: tuple[int, int]) -> None:
    request = wan(resolution=resolution)
    assert (request.width, request.height) == size


@pytest.mark.parametrize("size", ["16*24960", "24960x16"])
def test_a_side_that_is_too_long_is_rejected_in_the_field_that_set_it(size: str) -> None:
    assert problem(wan, config={"size": size}).field == "config.size"


@pytest.mark.parametrize(
    ("name", "value", "nearest"), [("frames", 84, "83"), ("frames", 0, "1"), ("fps", 7, "8"), ("fps", 25, "24"), ("steps", 51, "50")]
)
def test_a_number_out_of_range_is_rejected_with_the_nearest_bound(name: str, value: int, nearest: str) -> None:
    assert problem(wan, config={name: value}).nearest == nearest


@pytest.mark.parametrize(
    ("name", "value"), [("sample_shift", 12.1), ("sample_shift", 0.9), ("guidance_scale", 0.5), ("sample_solver", "ddim")]
)
def test_an_unknown_choice_is_rejected(name: str, value: Any) -> None:
    assert problem(wan, config={name: value}).field == f"config.{name}"


def test_an_image_has_one_frame_and_another_number_adds_a_warning() -> None:
    request = wan(type="image_fast", config={"frames": 17})
    assert (request.frames, request.warnings) == (1, ("`config.frames` was ignored, because image_fast makes 1 frame",))


def test_the_operator_sets_the_default_frame_rate() -> None:
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
def test_the_mode_is_inferred_from_the_references(references: dict[str, Any], mode: str) -> None:
    assert wan(**references).reference_mode == mode


def test_references_are_reported_by_their_canonical_names() -> None:
    request = wan(metadata={"start_reference_url": URL, "end_reference_url": "u/j/0.png", "video_reference_mode": "both"})
    assert [*request.references] == ["config.first_frame", "config.last_frame"]


@pytest.mark.parametrize(
    ("mode", "missing"),
    [("single", "config.image"), ("start", "config.first_frame"), ("end", "config.last_frame"), ("both", "config.first_frame")],
)
def test_a_mode_without_its_reference_is_rejected(mode: str, missing: str) -> None:
    assert missing in problem(wan, config={"reference_mode": mode}).allowed


@pytest.mark.parametrize("mode", ["none", "start", "both"])
def test_a_mode_that_would_ignore_a_reference_is_rejected(mode: str) -> None:
    found = problem(wan, config={"reference_mode": mode, "image": URL})
    assert found.allowed == '"single" with `config.image`'
    assert found.nearest == "single"


def test_a_single_reference_cannot_be_combined_with_others() -> None:
    assert problem(wan, config={"image": URL, "last_frame": URL}).field == "config.reference_mode"


def test_an_invalid_reference_is_reported_without_its_mode() -> None:
    assert [*problems(wan, config={"first_frame": 5, "reference_mode": "start"})] == ["config.first_frame"]


def test_sdxls_reference_mode_in_metadata_is_not_used() -> None:
    assert wan(config={"image": URL}, metadata={"reference_mode": "modify"}).reference_mode == "single"


def test_a_clip_needs_a_prompt() -> None:
    assert problem(wan, prompt="").sent == "an empty string"
    assert problem(wan, prompt=None).sent == "nothing"


@pytest.mark.parametrize("side", [16 * 10**400, 16 * 10**307, 10**200, 8208])
def test_a_huge_size_is_rejected(side: int) -> None:
    for config in ({"width": side, "height": 16}, {"width": side, "height": side}):
        found = problems(wan, config=config)
        assert found["config.width"].nearest == "8192"
        assert len(found["config.width"].sent) < 60


def test_a_single_side_adds_a_warning_with_the_other() -> None:
    assert wan(config={"width": 480, "resolution": "1024x576"}).warnings == (
        "`config.height` is 480, because only `config.width` is given",
    )


def test_the_frame_rate_of_an_image_is_ignored_with_a_warning() -> None:
    assert any("fps" in warning for warning in wan(type="image_fast", config={"fps": 10}).warnings)
    assert wan(type="video_fast", config={"fps": 10}).warnings == ()


def test_a_negative_prompt_has_the_same_limit_as_a_prompt() -> None:
    assert wan(negative_prompt="x" * 10_000).negative_prompt == "x" * 10_000
    assert problem(wan, negative_prompt="x" * 10_001).sent == "a string of 10 001 characters"
