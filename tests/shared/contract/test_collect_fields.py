"""Sections, aliases and precedence of fields, and warnings about unknown names."""

from __future__ import annotations

from typing import Any

import pytest

from shared.contract.context import RequestWarnings
from tests.shared.contract.requests import chat, problem, sdxl, wan


def test_config_overrides_top_level_which_overrides_metadata() -> None:
    assert sdxl(config={"seed": 1}, seed=2, metadata={"seed": 3}).seed == 1
    assert sdxl(seed=2, metadata={"seed": 3}).seed == 2
    assert sdxl(metadata={"seed": 3}).seed == 3


def test_canonical_name_overrides_aliases_within_a_section() -> None:
    assert wan(config={"sample_steps": 9, "steps": 7, "num_inference_steps": 8}).steps == 7
    assert wan(config={"sample_steps": 9, "num_inference_steps": 8}).steps == 8


def test_alias_in_config_overrides_canonical_name_at_the_top_level() -> None:
    assert wan(config={"frame_num": 5}, frames=9).frames == 5


def test_null_counts_as_absent() -> None:
    assert sdxl(config={"seed": None}, seed=2).seed == 2
    assert sdxl(config=None, metadata=None).num_images == 1
    assert sdxl(config={"loras": [{"name": "ink", "scale": None}]}).loras[0].scale == 1.0


@pytest.mark.parametrize(
    ("alias", "value", "attribute"),
    [
        ("num_inference_steps", 20, "steps"),
        ("batch_size", 3, "num_images"),
    ],
)
def test_sdxl_accepts_the_live_callers_aliases(alias: str, value: int, attribute: str) -> None:
    assert getattr(sdxl(config={alias: value}), attribute) == value


@pytest.mark.parametrize(
    ("place", "alias", "value", "attribute"),
    [
        ("config", "frame_num", 9, "frames"),
        ("config", "sample_steps", 9, "steps"),
        ("config", "num_inference_steps", 9, "steps"),
        ("config", "sample_guide_scale", 3.5, "guidance_scale"),
    ],
)
def test_wan_accepts_the_live_callers_aliases(place: str, alias: str, value: float, attribute: str) -> None:
    assert getattr(wan(**{place: {alias: value}}), attribute) == value


def test_job_type_is_an_alias_of_type() -> None:
    assert sdxl(type=None, job_type="sdxl_image_high").type == "sdxl_image_high"


def test_overridden_value_causes_a_warning() -> None:
    assert sdxl(config={"steps": 20, "num_inference_steps": 30}).warnings == (
        "`config.num_inference_steps` was ignored, because `config.steps` is given",
    )
    assert sdxl(config={"steps": 20, "num_inference_steps": 20}).warnings == ()


@pytest.mark.parametrize("place", ["config", "metadata"])
@pytest.mark.parametrize("value", [[], "steps=20", 5, True])
def test_config_and_metadata_must_be_objects(place: str, value: Any) -> None:
    assert problem(sdxl, **{place: value}).field == place


def test_unknown_name_causes_a_warning_without_its_value() -> None:
    request = sdxl(config={"colour": "secret"}, mood="secret")
    assert set(request.warnings) == {"`config.colour` is not a known field and was ignored", "`mood` is not a known field and was ignored"}


@pytest.mark.parametrize(
    ("sent", "meant"),
    [("guidence_scale", "config.guidance_scale"), ("numImages", "config.num_images"), ("stesp", "config.steps"), ("SEED", "config.seed")],
)
def test_misspelt_name_gets_a_suggestion(sent: str, meant: str) -> None:
    assert sdxl(config={sent: 1}).warnings == (f"`config.{sent}` is not a known field and was ignored; did you mean `{meant}`?",)


def test_misspelt_name_in_a_nested_object_gets_a_suggestion() -> None:
    request = sdxl(config={"loras": [{"name": "ink", "weigth": 1, "scal": 2}]})
    assert set(request.warnings) == {
        "`config.loras[].weigth` is not a known field and was ignored",
        "`config.loras[].scal` is not a known field and was ignored; did you mean `scale`?",
    }


def test_unknown_names_in_metadata_cause_no_warning() -> None:
    assert sdxl(metadata={"credits": 3, "guidence_scale": 4, "contentType": "sfw"}).warnings == ()


def test_descriptive_names_cause_no_warning() -> None:
    descriptive = {"pipeline": "x", "quality": "high", "format": "png", "content_type": "sfw", "model": "sdxl", "original_prompt": "p"}
    assert sdxl(config=descriptive, **descriptive).warnings == ()
    assert wan(config=descriptive).warnings == ()
    assert chat(project_context={"a": 1}, content_tier="sfw", conversation_id="c").warnings == ()


def test_the_usual_stray_fields_of_the_live_caller_cause_no_warning() -> None:
    row = {"image_id": "i", "video_id": "v", "retry_count": 0, "credits": 2, "source": "web", "session_id": "s", "updated_at": "2026-01-01"}
    ids = {"id": "j", "job_id": "j", "user_id": "u", "job_type": "sdxl_image_fast"}
    nulls = {"mood": None, "reference_image_url": None, "guidance": None}
    assert sdxl(config={**row, **ids, **nulls}, **row, **nulls).warnings == ()
    assert wan(config={**row, **ids, **nulls}, **row, **nulls).warnings == ()
    assert chat(config=nulls, **row, **nulls).warnings == ()


def test_an_id_in_config_has_no_effect() -> None:
    assert sdxl(id="j", config={"id": "another", "user_id": "another"}).job_id == "j"


def test_warnings_are_bounded_in_number_and_length() -> None:
    names = {"x" * 5000: 1, "a\nb": 1, "\ud800": 1} | {f"unknown_{index}": 1 for index in range(2000)}
    warnings = sdxl(config=names, **names).warnings
    assert len(warnings) <= 21
    assert max(map(len, warnings)) <= 240
    assert all(warning.isprintable() for warning in warnings)
    assert warnings[-1].startswith("and ")


def test_omitted_warnings_are_deduplicated_and_counted() -> None:
    warnings = RequestWarnings()
    for index in (*range(20), 0, 1, 20):
        warnings.add(f"`config.unknown_{index}` is not a known field and was ignored")
    assert [*warnings][20:] == ["and 1 more warning"]
