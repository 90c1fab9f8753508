"""Validation of SDXL requests."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from handlers.sdxl.scheduler_names import SchedulerName
from tests.shared.contract.requests import problem, problems, sdxl

URL = "https://example.com/a.png"


@pytest.mark.parametrize(
    ("job_type", "steps", "guidance"), [("sdxl_image_fast", 15, 6.0), ("sdxl_image_high", 25, 7.5), ("sdxl_generate", 25, 7.5)]
)
def test_steps_and_guidance_depend_on_the_type(job_type: str, steps: int, guidance: float) -> None:
    request = sdxl(type=job_type)
    assert (request.steps, request.guidance_scale) == (steps, guidance)


def test_optional_features_are_off_by_default() -> None:
    request = sdxl()
    assert (request.width, request.height, request.num_images, request.output_format) == (1024, 1024, 1, "png")
    assert (request.negative_prompt, request.scheduler, request.vae, request.refiner, request.upscale) == (None,) * 5
    assert (request.loras, request.textual_inversions, request.controls) == ((), (), ())
    assert (request.clip_skip, request.guidance_rescale, request.compel_enabled, request.exact_copy_mode) == (0, 0.0, False, False)
    assert (request.reference_type, request.reference_strength, request.denoise_strength) == ("style", 0.5, None)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_one_three_or_six_images_are_accepted(count: int) -> None:
    assert sdxl(config={"num_images": count}).num_images == count


@pytest.mark.parametrize("count", [0, 2, 4, 7, 10_000, -1, True, 1.0, "3"])
def test_other_numbers_of_images_are_refused(count: Any) -> None:
    assert problem(sdxl, config={"num_images": count}).allowed == "1, 3 or 6"


def test_the_images_of_a_job_have_different_seeds_also_at_the_end_of_the_range() -> None:
    assert sdxl(config={"seed": 5, "num_images": 3}).seeds == (5, 6, 7)
    assert sdxl(config={"seed": 0, "num_images": 3}).seeds == (0, 1, 2)
    assert sdxl(config={"seed": 2_147_483_646, "num_images": 3}).seeds == (2_147_483_646, 2_147_483_647, 1)
    assert sdxl(config={"seed": 2_147_483_647, "num_images": 3}).seeds == (2_147_483_647, 1, 2)


def test_an_absent_seed_is_derived_from_the_job() -> None:
    digest = int(hashlib.sha256(b"u/j").hexdigest(), 16)
    assert {sdxl(id="j", user_id="u").seed, sdxl(id=None, job_id="j", user_id="u").seed} == {1 + digest % 2_147_483_647}
    derived = {sdxl(id=f"job-{number}", user_id=user).seed for number in range(20) for user in ("a", "b")}
    assert len(derived) == 40
    assert all(1 <= seed <= 2_147_483_647 for seed in derived)


def test_a_seed_of_zero_is_used() -> None:
    assert sdxl(config={"seed": 0}).seed == 0


@pytest.mark.parametrize("seed", [-1, 2_147_483_648, 10**30, 1.5, True, "7", float("nan")])
def test_a_seed_outside_its_range_is_refused(seed: Any) -> None:
    assert problem(sdxl, config={"seed": seed}).field == "config.seed"


def test_the_size_is_one_value_or_two() -> None:
    for config in ({"resolution": "768x512"}, {"width": 768, "height": 512}):
        request = sdxl(config=config)
        assert (request.width, request.height) == (768, 512)


def test_width_and_height_override_resolution_with_a_warning() -> None:
    request = sdxl(config={"width": 768, "height": 512, "resolution": "1024x1024"})
    assert (request.width, request.height) == (768, 512)
    assert request.warnings == ("`config.resolution` was ignored, because `config.width` and `config.height` are given",)
    assert sdxl(config={"width": 768, "height": 512, "resolution": "768x512"}).warnings == ()


def test_a_width_without_a_height_is_refused() -> None:
    assert problem(sdxl, config={"width": 768}).field == "config.height"
    assert problem(sdxl, config={"height": 768, "resolution": "512x512"}).field == "config.width"


@pytest.mark.parametrize(
    ("resolution", "nearest"), [("1001x1024", "1000x1024"), ("8x8", "64x64"), ("999999x64", "2048x64"), ("4096x4096", "2048x2048")]
)
def test_an_invalid_resolution_is_refused_with_the_nearest_valid_one(resolution: str, nearest: str) -> None:
    assert problem(sdxl, config={"resolution": resolution}).nearest == nearest


@pytest.mark.parametrize("resolution", ["", "1024", "1024x", "axb", "1024X1024", "-8x8", "0x64", 1024, "1" * 500 + "x64", "64x64x64"])
def test_a_resolution_that_is_not_a_size_is_refused(resolution: Any) -> None:
    assert problem(sdxl, config={"resolution": resolution}).field == "config.resolution"


@pytest.mark.parametrize(("width", "nearest"), [(1001, "1000"), (63, "64"), (2056, "2048"), (1_000_000, "2048"), (0, "64")])
def test_an_invalid_width_is_refused_with_the_nearest_valid_one(width: int, nearest: str) -> None:
    assert problem(sdxl, config={"width": width, "height": 512}).nearest == nearest


def test_few_steps_require_a_scheduler_for_distilled_models() -> None:
    assert sdxl(config={"steps": 4, "scheduler": "lcm"}).steps == 4
    assert sdxl(config={"steps": 1, "scheduler": "tcd"}).steps == 1
    assert problem(sdxl, config={"steps": 9}).nearest == "10"
    assert problem(sdxl, config={"steps": 9, "scheduler": "euler"}).nearest == "10"
    assert problem(sdxl, config={"steps": 51}).nearest == "50"


def test_an_invalid_scheduler_is_refused_with_the_nearest_name_along_with_invalid_steps() -> None:
    found = problems(sdxl, config={"scheduler": "eulr", "steps": 99})
    assert found["config.scheduler"].nearest == "euler"
    assert found["config.steps"].nearest == "50"


@pytest.mark.parametrize("scheduler", SchedulerName.__args__)  # type: ignore[attr-defined]  # mypy does not know the arguments of a Literal
def test_every_scheduler_of_the_contract_is_accepted(scheduler: str) -> None:
    assert sdxl(config={"scheduler": scheduler}).scheduler == scheduler


def test_a_prompt_may_be_empty_only_for_an_exact_copy_of_a_reference() -> None:
    assert sdxl(prompt="", metadata={"exact_copy_mode": True, "reference_image_url": URL}).prompt == ""
    for metadata in ({}, {"exact_copy_mode": True}, {"reference_image_url": URL}):
        assert problem(sdxl, prompt="", metadata=metadata).field == "prompt"


def test_a_prompt_has_at_most_ten_thousand_characters() -> None:
    assert len(sdxl(prompt="é" * 10_000).prompt) == 10_000
    assert problem(sdxl, prompt="x" * 10_001).sent == "a string of 10 001 characters"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 10),
        ("steps", 50),
        ("guidance_scale", 1),
        ("guidance_scale", 20.0),
        ("clip_skip", 2),
        ("guidance_rescale", 1),
        ("width", 64),
    ],
)
def test_ranges_include_both_ends(name: str, value: float) -> None:
    config = {name: value} | ({"height": 64} if name == "width" else {})
    assert getattr(sdxl(config=config), name) == value


@pytest.mark.parametrize("name", ["../../x", "a/b", "a\\b", "C:x", "https://x", "..", "a..b", "", ".hidden", "a\x00b", "x" * 129, 5])
def test_a_name_is_never_a_path_or_a_url(name: Any) -> None:
    assert problem(sdxl, config={"loras": [{"name": name}]}).field == "config.loras[0].name"
    assert problem(sdxl, config={"vae": name}).field == "config.vae"


def test_nested_objects_are_parsed() -> None:
    request = sdxl(
        config={
            "loras": [{"name": "pixel-art v1.2", "scale": 1}],
            "controls": [{"kind": "canny", "image": URL, "strength": 0.5, "until": 0.8}],
            "textual_inversions": ["bad-hands"],
            "refiner": {"switch_at": 0.8},
            "upscale": {"factor": 2},
        }
    )
    assert (request.loras[0].name, request.loras[0].scale) == ("pixel-art v1.2", 1.0)
    assert (request.controls[0].kind, request.controls[0].strength, request.controls[0].until) == ("canny", 0.5, 0.8)
    assert request.textual_inversions == ("bad-hands",)
    assert request.refiner is not None
    assert request.refiner.switch_at == 0.8
    assert request.upscale is not None
    assert request.upscale.factor == 2
    assert list(request.references) == ["config.controls[0].image"]


@pytest.mark.parametrize("place", [{"metadata": {"reference_image_url": URL}}, {"config": {"image": URL}}, {"reference_image_url": URL}])
def test_a_reference_is_found_under_every_alias_and_reported_by_its_canonical_name(place: dict[str, Any]) -> None:
    request = sdxl(**place)
    assert {name: reference.value for name, reference in request.references.items()} == {"metadata.reference_image_url": URL}


@pytest.mark.parametrize(
    ("metadata", "method"),
    [
        ({}, "adapter"),
        ({"reference_type": "character"}, "adapter"),
        ({"reference_mode": "single"}, "adapter"),
        ({"reference_mode": "modify"}, "img2img"),
        ({"denoise_strength": 0.4}, "img2img"),
        ({"exact_copy_mode": True}, "adapter"),
    ],
)
def test_the_reference_method_follows_from_the_given_fields(metadata: dict[str, Any], method: str) -> None:
    assert sdxl(metadata={"reference_image_url": URL} | metadata).reference_method == method


def test_reference_settings_without_a_reference_are_ignored() -> None:
    assert sdxl(metadata={"reference_mode": "modify", "denoise_strength": 0.3}).reference_method == "none"


def test_exact_copy_mode_with_an_empty_prompt_copies_the_reference() -> None:
    assert sdxl(prompt="", metadata={"exact_copy_mode": True, "reference_image_url": URL}).reference_method == "copy"


def test_a_mask_takes_precedence_over_other_reference_settings() -> None:
    for metadata in (
        {},
        {"reference_type": "character"},
        {"reference_mode": "modify"},
        {"denoise_strength": 0.3},
        {"exact_copy_mode": True},
    ):
        request = sdxl(config={"image": URL, "mask": URL}, metadata=metadata)
        assert request.reference_method == "inpaint"
        assert list(request.references) == ["metadata.reference_image_url", "config.mask"]


def test_a_mask_requires_a_reference() -> None:
    assert str(problem(sdxl, config={"mask": URL})) == "`config.mask` requires `metadata.reference_image_url`"
    copy = {"exact_copy_mode": True, "reference_image_url": URL}
    assert problem(sdxl, prompt="", config={"mask": URL}, metadata=copy).field == "config.mask"
    assert list(problems(sdxl, config={"mask": URL, "image": 5})) == ["config.image"]


def test_several_references_have_a_type_and_a_strength_each() -> None:
    request = sdxl(config={"references": [{"image": URL}, {"image": "a/b.png", "type": "character", "strength": 1}]})
    assert [(each.type, each.strength) for each in request.adapter_references] == [("style", 0.5), ("character", 1.0)]
    assert list(request.references) == ["config.references[0].image", "config.references[1].image"]
    assert (request.reference_method, sdxl().adapter_references) == ("none", ())


def test_further_references_do_not_affect_the_main_one() -> None:
    others = {"references": [{"image": URL, "type": "style"}], "image": URL}
    assert sdxl(config=others).reference_method == "adapter"
    assert sdxl(config=others, metadata={"denoise_strength": 0.5}).reference_method == "img2img"
    assert sdxl(config=others | {"mask": URL}).reference_method == "inpaint"


@pytest.mark.parametrize(
    ("references", "field"),
    [
        ([{}], "config.references[0].image"),
        ([{"image": URL, "type": "colour"}], "config.references[0].type"),
        ([{"image": URL, "strength": 1.1}], "config.references[0].strength"),
        ([{"image": URL}] * 5, "config.references"),
        (URL, "config.references"),
    ],
)
def test_an_invalid_reference_is_refused_by_its_index(references: Any, field: str) -> None:
    assert problem(sdxl, config={"references": references}).field == field


def test_further_references_cannot_be_combined_with_an_exact_copy() -> None:
    copy = {"exact_copy_mode": True, "reference_image_url": URL}
    assert problem(sdxl, prompt="", config={"references": [{"image": URL}]}, metadata=copy).field == "config.references"


def test_denoise_strength_overrides_the_complement_of_reference_strength() -> None:
    assert sdxl(metadata={"reference_strength": 0.75}).img2img_strength == 0.25
    assert sdxl(metadata={"reference_strength": 0.75, "denoise_strength": 0.9}).img2img_strength == 0.9


def test_a_mask_without_a_strength_has_a_default_of_its_own() -> None:
    masked = {"mask": URL, "image": URL}
    assert sdxl(config=masked).img2img_strength == 0.85
    assert sdxl(config=masked, metadata={"reference_strength": 0.5}).img2img_strength == 0.5
    assert sdxl(config=masked, metadata={"reference_strength": None, "denoise_strength": None}).img2img_strength == 0.85
    assert sdxl(config=masked, metadata={"denoise_strength": 0.3}).img2img_strength == 0.3


def test_only_the_mask_is_read_by_its_alpha() -> None:
    references = sdxl(config={"mask": URL, "image": URL, "references": [{"image": URL}]}).references
    assert [name for name, reference in references.items() if reference.is_mask] == ["config.mask"]


def test_requests_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        sdxl().steps = 3  # type: ignore[misc]  # the point of the test


def test_the_repr_of_a_request_shows_no_prompt() -> None:
    assert "a fox" not in repr(sdxl()) + str(sdxl())


def test_a_resolution_has_ascii_digits_only() -> None:
    assert problem(sdxl, config={"resolution": "1٠24x1024"}).field == "config.resolution"
