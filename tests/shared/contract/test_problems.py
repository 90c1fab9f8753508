"""Messages about invalid requests: all problems at once, and no secrets."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from handlers.sdxl.request import SdxlRequest
from shared.contract.request import Request
from shared.errors import ValidationError
from tests.shared.contract.requests import chat, problem, problems, sdxl

SECRET = "correct horse battery staple"


def test_all_problems_are_reported_at_once() -> None:
    found = problems(
        sdxl,
        id="a/b",
        type="fats",
        prompt="",
        callback_url="https://elsewhere.example/x",
        config={"steps": 99, "num_images": 2, "guidance_scale": "high", "resolution": "1x1", "scheduler": "eulr", "loras": [{}]},
        metadata={"reference_strength": 7, "reference_image_url": 5},
    )
    assert set(found) >= {"id", "type", "callback_url", "config.steps", "config.num_images", "config.guidance_scale", "config.resolution"}
    assert set(found) >= {"config.scheduler", "config.loras[0].name", "metadata.reference_strength", "metadata.reference_image_url"}


def test_cross_field_rules_are_reported_with_the_others() -> None:
    found = problems(sdxl, prompt="", config={"steps": 5, "width": 512, "num_images": 2})
    assert set(found) == {"prompt", "config.steps", "config.height", "config.num_images"}


def test_problem_has_the_path_that_the_caller_used() -> None:
    assert problem(sdxl, config={"num_inference_steps": 99}).field == "config.num_inference_steps"
    assert problem(sdxl, steps=99).field == "steps"


def test_message_states_constraint_value_and_nearest() -> None:
    with pytest.raises(ValidationError) as caught:
        sdxl(config={"guidance_scale": 25})
    message = "`config.guidance_scale` must be a number from 1.0 to 20.0; got 25 (nearest: 20.0)"
    assert caught.value.message == f"The request is not valid. {message}"


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (True, "true"),
        ("20", '"20"'),
        (20.0, "20.0"),
        (float("nan"), "a number that is not finite"),
        (float("inf"), "a number that is not finite"),
        (10**400, "a whole number of more than 20 digits"),
        ([1, 2], "a list of 2 items"),
        ([], "an empty list"),
        ({"a": 1}, "an object"),
        (SECRET, "a string of 28 characters"),
        ("", "an empty string"),
        (object(), "something that is not JSON"),
    ],
)
def test_only_short_plain_values_are_shown(value: Any, sent: str) -> None:
    assert problem(sdxl, config={"steps": value}).sent == sent


def test_int_is_accepted_as_float_but_bool_is_not_a_number() -> None:
    assert sdxl(config={"guidance_scale": 7}).guidance_scale == 7.0
    assert problem(sdxl, config={"guidance_scale": True}).sent == "true"
    assert problem(sdxl, config={"steps": True}).sent == "true"
    assert problem(sdxl, compel_enabled=1).allowed == "true or false"


def test_number_sent_as_a_string_is_suggested_as_a_number() -> None:
    assert problem(sdxl, config={"steps": "20"}).nearest == "20"
    assert problem(sdxl, config={"guidance_scale": "99"}).nearest == "20.0"


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": SECRET + "\x00"},
        {"prompt": [SECRET]},
        {"prompt": {"text": SECRET}},
        {"negative_prompt": SECRET + "\ud800"},
        {"callback_url": f"https://evil.example/?token={SECRET}"},
        {"callback_url": "token"},
        {"metadata": {"reference_image_url": [SECRET]}},
        {"config": {"loras": [{"name": f"../{SECRET}"}]}},
        {"config": {"resolution": SECRET}},
        {"config": {"scheduler": SECRET}},
        {"config": SECRET},
        {"id": f"{SECRET}/x"},
    ],
)
def test_messages_contain_no_prompt_token_or_url(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        sdxl(**changes)
    assert SECRET not in caught.value.message
    assert "token" not in caught.value.message


@pytest.mark.parametrize("raw", [None, [], "text", 5, True, 1.5, b"{}"])
def test_input_must_be_an_object(raw: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        SdxlRequest.parse(raw, job_id="r")
    assert [problem.field for problem in caught.value.problems] == ["input"]


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "ok \udfff"])
@pytest.mark.parametrize("name", ["prompt", "negative_prompt", "compel_weights"])
def test_nul_and_unpaired_surrogates_are_rejected(name: str, text: str) -> None:
    assert problem(sdxl, **{name: text}).allowed == "text without NUL characters and unpaired surrogates"


@pytest.mark.parametrize("text", ["🦊", "\u202eright to left", "((((" * 2000, "a++++" * 2000, "\n\t"])
def test_unusual_text_is_accepted(text: str) -> None:
    assert sdxl(prompt=text).prompt == text


def test_problems_are_listed_up_to_a_limit_and_then_counted() -> None:
    with pytest.raises(ValidationError) as caught:
        chat(messages=[5] * 62)
    assert len(caught.value.problems) == 25
    assert caught.value.message.endswith(" | and 37 more")


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value, "b": [value]} if depth < 10 else {"a": value}
    return value


# Made by the test: collecting the tests would take a second longer.
HOSTILE: dict[str, Callable[[], Any]] = {
    "long text": lambda: {"id": "j" * 5_000_000, "prompt": "x" * 5_000_000},
    "long lists": lambda: {"messages": [{}] * 100_000, "config": {"loras": [5] * 100_000}},
    "deep": lambda: {name: nested(100_000) for name in ("config", "metadata", "prompt", "seed")},
    "many names": lambda: {str(index): index for index in range(200_000)},
    "long names": lambda: {"x" * 1_000_000: 1, "config": {"y" * 1_000_000: 2}},
    "long values": lambda: {
        "prompt": "(" * 9_999,
        "id": "a" * 1_000_000,
        "config": {"width": 10**3000, "resolution": "9" * 1_000_000},
    },
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("model", [SdxlRequest, type(chat())])
def test_hostile_request_is_rejected_quickly_with_a_short_message(model: type[Request], make: Callable[[], Any]) -> None:
    raw = make()
    started = time.process_time()
    with pytest.raises(ValidationError) as caught:
        model.parse(raw, job_id="r")
    # Generous: a quadratic algorithm would take minutes.
    assert time.process_time() - started < 5
    assert len(caught.value.message) < 10_000
