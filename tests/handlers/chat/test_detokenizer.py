"""Incremental detokenisation: stop strings, whole characters, and stable text that is never retracted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.chat.detokenizer import IncrementalDetokenizer
from tests.handlers.chat.tokenizer_fixtures import TOKENIZERS, byte_fallback


def detokenize(tokenizer: Any, text: str, stop: Sequence[str] = ()) -> tuple[list[str], str]:
    """Detokenises a text token by token. Returns the stable text after every token, and the final text."""
    result = _detokenize(tokenizer, tokenizer(text, add_special_tokens=False).input_ids, stop)
    by_character = [token for character in text for token in tokenizer(character, add_special_tokens=False).input_ids]
    assert _detokenize(tokenizer, by_character, stop)[1] == result[1], "the text does not depend on token boundaries"
    return result


def _detokenize(tokenizer: Any, ids: Sequence[int], stop: Sequence[str]) -> tuple[list[str], str]:
    detokenizer, stable = IncrementalDetokenizer(tokenizer, stop), []
    for token in ids:
        detokenizer.add(token)
        stable.append(detokenizer.stable_text)
        if detokenizer.stopped:
            break
    for earlier, later in zip(stable, [*stable[1:], detokenizer.text], strict=True):
        assert later.startswith(earlier), "stable text was retracted"
    return stable, detokenizer.text


@pytest.mark.parametrize("text", ["A heron over a bay.", "🦢🏽 中文 ok", "naïve café", "line\n\nline", "  spaces  "])
def test_text_round_trips(tokenizer: Any, text: str) -> None:
    stable, final = detokenize(tokenizer, text)
    assert final == text
    assert not any("�" in text for text in stable), "part of a character was shown"


@pytest.mark.parametrize("stop", ["over", "o", " over a", "heron over a bay", "A"])
def test_text_ends_before_a_stop_string_and_never_shows_part_of_it(tokenizer: Any, stop: str) -> None:
    text = "A heron over a bay."
    stable, final = detokenize(tokenizer, text, stop=[stop])
    assert final == text[: text.index(stop)]
    assert all(final.startswith(text) for text in stable)


def test_the_first_of_several_stop_strings_ends_the_text(tokenizer: Any) -> None:
    assert detokenize(tokenizer, "one two three four", stop=["four", "three", "two t"])[1] == "one "


def test_an_incomplete_stop_string_is_part_of_the_final_text(tokenizer: Any) -> None:
    assert detokenize(tokenizer, "one two thr", stop=["three"])[1] == "one two thr"


def test_the_first_completed_of_overlapping_stop_strings_ends_the_text(tokenizer: Any) -> None:
    assert detokenize(tokenizer, "xabcy", stop=["abc", "b"])[1] == "xa"
    assert detokenize(tokenizer, "xabcy", stop=["bc", "abc"])[1] == "x"
    assert detokenize(tokenizer, "xabaaby", stop=["abab", "aab"])[1] == "xab"


@settings(max_examples=200)
@given(text=st.text("ab\u00e9🦢 ", min_size=1, max_size=16), stops=st.lists(st.text("ab\u00e9🦢 ", min_size=1, max_size=4), max_size=3))
def test_any_text_ends_before_the_first_completed_stop_string(tokenizer: Any, text: str, stops: list[str]) -> None:
    ends = sorted((text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text)
    assert detokenize(tokenizer, text, stops)[1] == (text[: ends[0][1]] if ends else text)


# Tokenizers of other families

E_ACUTE = ("<0xC3>", "<0xA9>")


def generate(tokens: Sequence[str], stop: Sequence[str] = ()) -> str:
    """Detokenises tokens of a tokenizer with byte fallback."""
    tokenizer: Any = byte_fallback()
    return _detokenize(tokenizer, tokenizer.convert_tokens_to_ids(list(tokens)), stop)[1]


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["\u2581caf", *E_ACUTE, "\u2581a"], "café a"),
        ([*E_ACUTE, *E_ACUTE, "b"], "ééb"),
        ([*E_ACUTE, "<0xFF>", "\u2581a", "b"], "é� ab"),
        (["a", "<0xC3>", "b"], "a�b"),
        (["a", *(["<0xFF>"] * 6), "b"], "a������b"),
        (["<0xF0>", "<0x9F>", "<0xA6>", "<0xA2>", "b"], "\U0001f9a2b"),
    ],
)
def test_bytes_of_a_byte_fallback_tokenizer_become_characters_and_stray_ones_replacements(tokens: list[str], text: str) -> None:
    assert generate(tokens) == text


def test_a_stop_string_is_found_after_a_stray_byte() -> None:
    assert generate([*E_ACUTE, "<0xFF>", "a", "b", "e"], stop=["b"]) == "é�a"


@settings(max_examples=100, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(TOKENIZERS)))
def test_any_tokens_of_any_tokenizer_become_text_that_is_never_retracted(data: st.DataObject, kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), min_size=1, max_size=24))
    text = _detokenize(tokenizer, ids, ())[1]
    if kind != "word pieces":  # whose decoder edits earlier text
        plain = tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True)
        assert text.replace("�", "") == plain.replace("�", "") or "�" in plain
