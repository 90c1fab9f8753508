"""A base model that goes round in circles is stopped, and nobody else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.chat.engines.transformers.repetition import Repetition
from handlers.chat.recipe import ChatRecipe
from handlers.chat.request import ChatRequest
from shared.jobs.recipe import Recipe
from tests.handlers.chat.engine_fixtures import answer, ask, engine_of, favouring
from tests.handlers.conftest import chat, make


def found_at(tokens: list[int], text: str = "") -> int | None:
    watch = Repetition()
    return next((at for at, token in enumerate(tokens) if watch.add(token, text)), None)


@pytest.mark.parametrize("period", [1, 2, 7, 39, 40, 55])
def test_it_is_found_when_forty_tokens_stood_there_before(period: int) -> None:
    assert found_at([1000 + n for n in range(100)] + list(range(period)) * 100) == 100 + 40 + period - 1


def test_tokens_that_come_back_in_another_order_are_no_repetition() -> None:
    assert found_at([n * n % 1009 for n in range(500)]) is None


def test_the_same_line_three_times_is_one() -> None:
    text, watch = "one\ntwo\ntwo\ntwo\n", Repetition()
    hits = [watch.add(ord(letter), text[: at + 1]) for at, letter in enumerate(text)]
    assert hits.index(True) == len(text) - 1


@pytest.mark.parametrize("text", ["one\ntwo\none\ntwo\none\n", "\n\n\n\n\n", "two\ntwo\ntwo"])
def test_other_lines_are_not(text: str) -> None:
    watch = Repetition()
    assert not any(watch.add(ord(letter), text[: at + 1]) for at, letter in enumerate(text))


def test_a_base_model_in_a_circle_ends_early_and_an_instruct_model_does_not(tiny_models: Path) -> None:
    model = favouring(tiny_models, " a")
    with engine_of(model, model) as engine:
        base, instruct = (answer(engine, ask(model=name, max_tokens=200)) for name in ("qwen_base", "qwen_instruct"))
    assert (base.finish_reason, base.repeats, base.completion_tokens) == ("stop", True, 41)
    assert (instruct.finish_reason, instruct.repeats, instruct.completion_tokens) == ("length", False, 200)


def test_the_caller_is_told(tiny_models: Path, chat_recipe: Recipe[ChatRequest]) -> None:
    model = favouring(tiny_models, " a")
    with engine_of(model, model) as engine:
        assert isinstance(chat_recipe, ChatRecipe)
        recipe = ChatRecipe(engine, chat_recipe._settings)
        request = chat("hello", model="qwen_base", max_tokens=200)
        summary = recipe.summarize(request, make(recipe, request))
    assert any("repeat" in warning for warning in summary.warnings)
