"""Incremental masking: listed words never appear, other words are unaffected, and stable text is never retracted."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from handlers.chat.masking import IncrementalMasker, WordList


def mask(text: str, words: Sequence[str]) -> str:
    """Masks a text, and checks that the result does not depend on how it is split."""
    (masked,) = {stable_texts(split(text, size), words)[-1] for size in range(1, len(text) + 1)}
    return masked


def split(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def stable_texts(deltas: Sequence[str], words: Sequence[str]) -> list[str]:
    """Returns the stable text before and after every delta, and the final text."""
    masker, seen = IncrementalMasker(WordList(words)), [""]
    for delta in deltas:
        masker.add(delta)
        seen.append(masker.stable_text)
    seen.append(masker.text)
    for earlier, later in itertools.pairwise(seen):
        assert later.startswith(earlier), "stable text was retracted"
    return seen


def test_matching_is_case_insensitive_and_whole_word() -> None:
    assert mask("Her heron, HER herons; her.", ["her"]) == "*** heron, *** herons; ***."


@pytest.mark.parametrize("town", ["Scunthorpe", "Penistone", "Essex", "Cockermouth", "Lightwater"])
def test_words_that_contain_a_listed_word_are_not_masked(town: str) -> None:
    listed = ["cunt", "penis", "sex", "cock", "twat", "ass"]
    text = f"{town}, the classic passage to {town.lower()}shire's assassin and {town.upper()}"
    assert mask(text, listed) == text


def test_a_word_that_starts_with_a_listed_word_is_not_masked() -> None:
    for length in range(1, 7):
        assert mask("so beautiful", ["beautiful"[:length]]) == "so beautiful"


def test_a_concatenation_of_listed_words_is_not_masked() -> None:
    assert mask("foobaz foo bar foobar", ["foo", "bar"]) == "foobaz *** *** foobar"


@pytest.mark.parametrize(
    ("text", "word", "expected"),
    [
        ("a.b acb", "a.b", "*** acb"),
        ("oh $hit, a$hit", "$hit", "oh ****, a$hit"),
        ("f*** f***k", "f***", "**** f***k"),
        ("c++ and c+", "c++", "*** and c+"),
        ("(a|b) [", "(a|b)", "***** ["),
    ],
)
def test_punctuation_in_a_listed_word_is_literal(text: str, word: str, expected: str) -> None:
    assert mask(text, [word]) == expected


def test_punctuation_around_a_word_is_a_boundary() -> None:
    assert mask("_damn_ (damn) `damn` damn's damn-it “damn”", ["damn"]) == "_****_ (****) `****` ****'s ****-it “****”"


def test_a_phrase_matches_with_any_whitespace() -> None:
    assert mask("New York, new\n  york; new yorker, newyork new", ["new york"]) == "*** ****, ***\n  ****; new yorker, newyork new"


def test_the_longest_match_at_a_position_wins() -> None:
    for words in (["new york", "new york city"], ["new york city", "new york"]):
        assert mask("new york city new york cit", words) == "*** **** **** *** **** cit"


def test_the_first_of_overlapping_matches_wins() -> None:
    assert mask("a b c d", ["a b", "b c", "c d"]) == "* * * *"
    assert mask("a b c", ["a b", "b c"]) == "* * c"
    assert mask("a b c", ["a b c", "b"]) == "* * *"
    assert mask("a b d", ["a b c", "b"]) == "a * d"


@pytest.mark.parametrize(
    ("text", "word", "expected"),
    [
        ("Die STRASSE, die Straße, strassen", "straße", "Die *******, die ******, strassen"),
        ("ДУРАК дураки", "дурак", "***** дураки"),
        ("naïve NAÏVE naïvely", "naïve", "***** ***** naïvely"),
        ("हिन्दी हिन", "हिन", "हिन्दी ***"),
        ("مي\u200cخواهم مي", "مي", "مي\u200cخواهم **"),
        ("你是傻瓜吗", "傻瓜", "你是**吗"),
        ("คุณโง่มาก", "โง่", "คุณ***มาก"),
    ],
)
def test_words_of_many_scripts_are_masked(text: str, word: str, expected: str) -> None:
    assert mask(text, [word]) == expected


def test_composed_and_decomposed_accents_match() -> None:
    decomposed = unicodedata.normalize("NFD", "café")
    assert mask(f"café {decomposed} {decomposed}s", ["café"]) == f"**** ***** {decomposed}s"
    assert mask(f"cafe café {decomposed}", ["cafe"]) == f"**** café {decomposed}", "another word"


def test_an_empty_word_list_holds_nothing_back() -> None:
    assert stable_texts(["a", "b c"], []) == ["", "a", "ab c", "ab c"]


def test_only_a_possible_prefix_of_a_listed_word_is_held_back() -> None:
    assert stable_texts(["so be", "au", "ty ", "beau", "x"], ["beau"]) == [
        "",
        "so ",
        "so ",
        "so beauty ",
        "so beauty ",
        "so beauty beaux",
        "so beauty beaux",
    ]


# Characters with special case folding, combining marks, digits, joiners, whitespace and punctuation.
CHARACTERS = "abAB sSſ kK\u212a iIİı ßẞ é e\u0301 \u200d_-'.* \n1 你好"
WORDS = st.lists(st.text(CHARACTERS, min_size=1, max_size=4).filter(lambda word: word.strip()), max_size=4)


@settings(max_examples=300)
@given(text=st.text(CHARACTERS, max_size=24), words=WORDS, data=st.data())
@example(text="kiſs", words=["kiss"], data=None)
@example(text="a b", words=["a b c", "b"], data=None)
def test_masking_does_not_depend_on_how_the_text_is_split(text: str, words: list[str], data: st.DataObject | None) -> None:
    whole = stable_texts([text], words)[-1]
    offsets = [] if data is None else sorted(data.draw(st.sets(st.integers(0, len(text)))))
    deltas = [text[start:end] for start, end in zip([0, *offsets], [*offsets, len(text)], strict=True)]
    assert stable_texts(deltas, words)[-1] == stable_texts(list(text), words)[-1] == whole
    assert len(whole) == len(text)


@settings(max_examples=300)
@given(text=st.text("ab .", max_size=16), words=st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_exactly_the_listed_words_are_masked(text: str, words: list[str]) -> None:
    tokens = text.replace(".", " . ").split(" ")
    expected = " ".join("*" * len(token) if token in words else token for token in tokens)
    assert stable_texts(list(text), words)[-1].replace(".", " . ") == expected
