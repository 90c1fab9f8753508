"""Repetition detection, which ends completions of base models."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.chat.recipe import ChatRecipe
from handlers.chat.repetition import RepetitionDetector
from handlers.chat.request import ChatRequest
from shared.jobs.recipe import Recipe
from tests.handlers.chat.engine_fixtures import ask, biased_towards, complete, engine_of
from tests.handlers.conftest import chat, generate


def detected_at(tokens: list[int]) -> int | None:
    """Returns the index of the token at which a repetition is detected."""
    detector = RepetitionDetector()
    return next((index for index, token in enumerate(tokens) if detector.add(token, "")), None)


@pytest.mark.parametrize("period", [1, 2, 7, 39, 40, 55])
def test_forty_repeated_tokens_are_detected(period: int) -> None:
    assert detected_at([1000 + n for n in range(100)] + list(range(period)) * 100) == 100 + 40 + period - 1


def test_the_same_tokens_in_another_order_are_not_a_repetition() -> None:
    assert detected_at([n * n % 1009 for n in range(500)]) is None


def test_three_equal_lines_are_a_repetition() -> None:
    text, detector = "one\ntwo\ntwo\ntwo\n", RepetitionDetector()
    hits = [detector.add(ord(letter), text[: index + 1]) for index, letter in enumerate(text)]
    assert hits.index(True) == len(text) - 1


@pytest.mark.parametrize("text", ["one\ntwo\none\ntwo\none\n", "\n\n\n\n\n", "two\ntwo\ntwo"])
def test_alternating_empty_and_incomplete_lines_are_not_a_repetition(text: str) -> None:
    detector = RepetitionDetector()
    assert not any(detector.add(ord(letter), text[: index + 1]) for index, letter in enumerate(text))


def test_repetition_ends_completions_of_base_models_only(tiny_models: Path) -> None:
    model = biased_towards(tiny_models, " a")
    with engine_of(model, model) as engine:
        base, instruct = (complete(engine, ask(model=name, max_tokens=200)) for name in ("qwen_base", "qwen_instruct"))
    assert (base.finish_reason, base.repetition_detected, base.completion_tokens) == ("stop", True, 41)
    assert (instruct.finish_reason, instruct.repetition_detected, instruct.completion_tokens) == ("length", False, 200)


def test_a_completion_that_ended_by_repetition_has_a_warning(tiny_models: Path, chat_recipe: Recipe[ChatRequest]) -> None:
    model = biased_towards(tiny_models, " a")
    with engine_of(model, model) as engine:
        assert isinstance(chat_recipe, ChatRecipe)
        recipe = ChatRecipe(engine, chat_recipe._settings)
        request = chat("hello", model="qwen_base", max_tokens=200)
        summary = recipe.summarize(request, generate(recipe, request))
    assert any("repeat" in warning for warning in summary.warnings)
