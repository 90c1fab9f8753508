"""The text of an answer while it is written: it stops where it should, and never takes back what it has shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.chat.detokenizer import IncrementalDetokenizer


def write(tokenizer: Any, text: str, stops: Sequence[str] = ()) -> tuple[list[str], str]:
    """Everything that was shown while a text was written token by token, and the end."""
    written = _write(tokenizer, tokenizer(text, add_special_tokens=False).input_ids, stops)
    by_letters = [token for letter in text for token in tokenizer(letter, add_special_tokens=False).input_ids]
    assert _write(tokenizer, by_letters, stops)[1] == written[1], "how a text is cut into tokens changes nothing"
    return written


def _write(tokenizer: Any, ids: Sequence[int], stops: Sequence[str]) -> tuple[list[str], str]:
    answer, shown = IncrementalDetokenizer(tokenizer, stops), []
    for token in ids:
        answer.add(token)
        shown.append(answer.shown)
        if answer.stopped:
            break
    for earlier, later in zip(shown, [*shown[1:], answer.final], strict=True):
        assert later.startswith(earlier), "something was taken back"
    return shown, answer.final


@pytest.mark.parametrize("text", ["A heron over a bay.", "🦢🏽 中文 ok", "naïve café", "line\n\nline", "  spaces  "])
def test_text_round_trips(tokenizer: Any, text: str) -> None:
    shown, final = write(tokenizer, text)
    assert final == text
    assert not any("�" in piece for piece in shown), "half a character is never shown"


@pytest.mark.parametrize("stop", ["over", "o", " over a", "heron over a bay", "A"])
def test_text_ends_before_a_stop_string_and_never_shows_part_of_it(tokenizer: Any, stop: str) -> None:
    text = "A heron over a bay."
    shown, final = write(tokenizer, text, stops=[stop])
    assert final == text[: text.index(stop)]
    assert all(final.startswith(piece) for piece in shown)


def test_the_first_of_several_stop_strings_ends_the_text(tokenizer: Any) -> None:
    assert write(tokenizer, "one two three four", stops=["four", "three", "two t"])[1] == "one "


def test_an_incomplete_stop_string_is_part_of_the_final_text(tokenizer: Any) -> None:
    assert write(tokenizer, "one two thr", stops=["three"])[1] == "one two thr"


def test_the_first_completed_of_overlapping_stop_strings_ends_the_text(tokenizer: Any) -> None:
    assert write(tokenizer, "xabcy", stops=["abc", "b"])[1] == "xa"
    assert write(tokenizer, "xabcy", stops=["bc", "abc"])[1] == "x"
    assert write(tokenizer, "xabaaby", stops=["abab", "aab"])[1] == "xab"


@settings(max_examples=200)
@given(text=st.text("ab\u00e9🦢 ", min_size=1, max_size=16), stops=st.lists(st.text("ab\u00e9🦢 ", min_size=1, max_size=4), max_size=3))
def test_any_text_ends_before_the_first_completed_stop_string(tokenizer: Any, text: str, stops: list[str]) -> None:
    ends = sorted((text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text)
    assert write(tokenizer, text, stops)[1] == (text[: ends[0][1]] if ends else text)
