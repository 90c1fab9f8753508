"""The text of an answer while it is written: it stops where it should, and never takes back what it has shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from handlers.chat.generate import ChatRecipe
from handlers.chat.texts import Answer
from shared.contract.chat import ChatRequest
from shared.jobs.recipe import Recipe


@pytest.fixture
def tokenizer(chat_recipe: Recipe[ChatRequest]) -> Any:
    assert isinstance(chat_recipe, ChatRecipe)
    return chat_recipe._models["qwen_instruct"].tokenizer


def write(tokenizer: Any, text: str, stops: Sequence[str] = (), masked: Sequence[str] = ()) -> tuple[list[str], str]:
    """Everything that was shown while a text was written token by token, and the end."""
    written = _write(tokenizer, tokenizer(text, add_special_tokens=False).input_ids, stops, masked)
    by_letters = [token for letter in text for token in tokenizer(letter, add_special_tokens=False).input_ids]
    assert _write(tokenizer, by_letters, stops, masked)[1] == written[1], "how a text is cut into tokens changes nothing"
    return written


def _write(tokenizer: Any, ids: Sequence[int], stops: Sequence[str], masked: Sequence[str]) -> tuple[list[str], str]:
    answer, shown = Answer(tokenizer, stops, masked), []
    for token in ids:
        answer.add(token)
        shown.append(answer.shown)
        if answer.stopped:
            break
    for earlier, later in zip(shown, [*shown[1:], answer.final], strict=True):
        assert later.startswith(earlier), "something was taken back"
    return shown, answer.final


@pytest.mark.parametrize("text", ["A heron over a bay.", "🦢🏽 中文 ok", "naïve café", "line\n\nline", "  spaces  "])
def test_a_text_comes_out_as_it_is(tokenizer: Any, text: str) -> None:
    shown, final = write(tokenizer, text)
    assert final == text
    assert not any("�" in piece for piece in shown), "half a character is never shown"


@pytest.mark.parametrize("stop", ["over", "o", " over a", "heron over a bay", "A"])
def test_a_text_ends_before_its_stop_and_never_shows_a_part_of_it(tokenizer: Any, stop: str) -> None:
    text = "A heron over a bay."
    shown, final = write(tokenizer, text, stops=[stop])
    assert final == text[: text.index(stop)]
    assert all(final.startswith(piece) for piece in shown)


def test_the_first_of_several_stops_ends_the_text(tokenizer: Any) -> None:
    assert write(tokenizer, "one two three four", stops=["four", "three", "two t"])[1] == "one "


def test_what_only_looks_like_the_beginning_of_a_stop_is_shown_in_the_end(tokenizer: Any) -> None:
    assert write(tokenizer, "one two thr", stops=["three"])[1] == "one two thr"


def test_a_masked_word_is_masked_in_any_case_and_only_as_a_whole(tokenizer: Any) -> None:
    assert write(tokenizer, "Her heron, HER herons; her.", masked=["her"])[1] == "*** heron, *** herons; ***."


def test_a_word_that_begins_like_a_masked_one_is_not_masked_while_it_is_written(tokenizer: Any) -> None:
    for length in range(1, 7):
        assert write(tokenizer, "so beautiful", masked=["beautiful"[:length]])[1] == "so beautiful"


def test_a_word_that_begins_with_two_masked_ones_is_none_of_them(tokenizer: Any) -> None:
    assert write(tokenizer, "foobaz foo bar foobar", masked=["foo", "bar"])[1] == "foobaz *** *** foobar"


def test_a_masked_word_with_signs_in_it_is_taken_literally(tokenizer: Any) -> None:
    assert write(tokenizer, "a.b acb", masked=["a.b"])[1] == "*** acb"
