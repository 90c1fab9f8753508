"""Requests of excessive size are refused before their values are looked at."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from handlers.chat.request import ChatRequest
from handlers.sdxl.request import SdxlRequest
from shared.contract.collect_fields import MAX_DEPTH, MAX_VALUES
from shared.contract.request import Request
from shared.errors import ValidationError

MANY = 10**6


def sdxl(**changes: Any) -> Request:
    return SdxlRequest.parse({"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": "p"} | changes, job_id="j")


def chat(**changes: Any) -> Request:
    return ChatRequest.parse({"type": "qwen_chat", "prompt": "p"} | changes, job_id="j")


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@contextmanager
def quickly(seconds: float = 0.3) -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < seconds


@pytest.mark.parametrize("item", ["x", 5, None, {}, {"name": 5}, []], ids=repr)
@pytest.mark.parametrize("count", [MANY, MAX_VALUES - 100])
@pytest.mark.parametrize("field", ["loras", "references", "controls", "textual_inversions"])
def test_long_list_is_refused_without_looking_at_its_items(field: str, count: int, item: Any) -> None:
    items = [item] * count
    with quickly(), pytest.raises(ValidationError) as caught:
        sdxl(config={field: items})
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("field", ["stop", "messages", "stop_token_ids"])
def test_long_list_of_a_conversation_is_refused_without_looking_at_its_items(field: str) -> None:
    items = [5.5] * MANY
    with quickly(), pytest.raises(ValidationError):
        chat(**{field: items})


def test_list_of_one_item_too_many_is_described_with_its_limit() -> None:
    with pytest.raises(ValidationError) as caught:
        sdxl(config={"loras": [5] * 17, "bogus": 1}, metadata=5)
    assert [problem.field for problem in caught.value.problems] == ["metadata", "config.loras"]
    assert "a list of at most 16" in str(caught.value)
    assert "a list of 17 items" in str(caught.value)


@pytest.mark.parametrize("section", ["config", "metadata", "anything"])
def test_object_of_many_fields_is_refused(section: str) -> None:
    fields = dict.fromkeys(map(str, range(MANY)), 1)
    with quickly(), pytest.raises(ValidationError, match="values"):
        sdxl(**{section: fields})


@pytest.mark.parametrize("depth", [MAX_DEPTH + 2, 100_000])
def test_deeply_nested_input_is_refused(depth: int) -> None:
    value = nested(depth)
    with quickly(), pytest.raises(ValidationError, match="deep"):
        sdxl(config={"anything": value})


def test_texts_have_a_limit_together() -> None:
    text = "a" * 2**20
    with quickly(), pytest.raises(ValidationError, match="characters"):
        sdxl(config={"anything": [text] * 65})
