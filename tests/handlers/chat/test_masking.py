"""IncrementalMasker words never show, not even while they are written, and no other word suffers."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from handlers.chat.masking import IncrementalMasker, WordList


def write(text: str, masked: Sequence[str]) -> str:
    """What comes of a text, however it is cut into pieces."""
    ends = {shown(cut(text, size), masked)[-1] for size in range(1, len(text) + 1)}
    (end,) = ends
    return end


def cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def shown(pieces: Sequence[str], words: Sequence[str]) -> list[str]:
    """Everything that a reader sees, the whole text last."""
    masked, seen = IncrementalMasker(WordList(words)), [""]
    for piece in pieces:
        masked.add(piece)
        seen.append(masked.shown)
    seen.append(masked.final)
    for earlier, later in itertools.pairwise(seen):
        assert later.startswith(earlier), "something was taken back"
    return seen


def test_matching_is_case_insensitive_and_whole_word() -> None:
    assert write("Her heron, HER herons; her.", ["her"]) == "*** heron, *** herons; ***."


@pytest.mark.parametrize("town", ["Scunthorpe", "Penistone", "Essex", "Cockermouth", "Lightwater"])
def test_words_that_contain_a_listed_word_are_not_masked(town: str) -> None:
    listed = ["cunt", "penis", "sex", "cock", "twat", "ass"]
    text = f"{town}, the classic passage to {town.lower()}shire's assassin and {town.upper()}"
    assert write(text, listed) == text


def test_a_word_that_starts_with_a_listed_word_is_not_masked() -> None:
    for length in range(1, 7):
        assert write("so beautiful", ["beautiful"[:length]]) == "so beautiful"


def test_a_concatenation_of_listed_words_is_not_masked() -> None:
    assert write("foobaz foo bar foobar", ["foo", "bar"]) == "foobaz *** *** foobar"


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
    assert write(text, [word]) == expected


def test_punctuation_around_a_word_is_a_boundary() -> None:
    assert write("_damn_ (damn) `damn` damn's damn-it “damn”", ["damn"]) == "_****_ (****) `****` ****'s ****-it “****”"


def test_a_phrase_matches_with_any_whitespace() -> None:
    assert write("New York, new\n  york; new yorker, newyork new", ["new york"]) == "*** ****, ***\n  ****; new yorker, newyork new"


def test_the_longest_match_at_a_position_wins() -> None:
    for words in (["new york", "new york city"], ["new york city", "new york"]):
        assert write("new york city new york cit", words) == "*** **** **** *** **** cit"


def test_the_first_of_overlapping_matches_wins() -> None:
    assert write("a b c d", ["a b", "b c", "c d"]) == "* * * *"
    assert write("a b c", ["a b", "b c"]) == "* * c"
    assert write("a b c", ["a b c", "b"]) == "* * *"
    assert write("a b d", ["a b c", "b"]) == "a * d"


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
    assert write(text, [word]) == expected


def test_composed_and_decomposed_accents_match() -> None:
    apart = unicodedata.normalize("NFD", "café")
    assert write(f"café {apart} {apart}s", ["café"]) == f"**** ***** {apart}s"
    assert write(f"cafe café {apart}", ["cafe"]) == f"**** café {apart}", "another word"


def test_an_empty_word_list_holds_nothing_back() -> None:
    assert shown(["a", "b c"], []) == ["", "a", "ab c", "ab c"]


def test_only_a_possible_prefix_of_a_listed_word_is_held_back() -> None:
    assert shown(["so be", "au", "ty ", "beau", "x"], ["beau"]) == [
        "",
        "so ",
        "so ",
        "so beauty ",
        "so beauty ",
        "so beauty beaux",
        "so beauty beaux",
    ]


# Letters of which some fold into each other or into two, marks, digits, joiners, spaces, signs.
LETTERS = "abAB sSſ kK\u212a iIİı ßẞ é e\u0301 \u200d_-'.* \n1 你好"
WORDS = st.lists(st.text(LETTERS, min_size=1, max_size=4).filter(lambda word: word.strip()), max_size=4)


@settings(max_examples=300)
@given(text=st.text(LETTERS, max_size=24), words=WORDS, data=st.data())
@example(text="kiſs", words=["kiss"], data=None)
@example(text="a b", words=["a b c", "b"], data=None)
def test_masking_does_not_depend_on_how_the_text_is_split(text: str, words: list[str], data: st.DataObject | None) -> None:
    whole = shown([text], words)[-1]
    borders = [] if data is None else sorted(data.draw(st.sets(st.integers(0, len(text)))))
    pieces = [text[start:end] for start, end in zip([0, *borders], [*borders, len(text)], strict=True)]
    assert shown(pieces, words)[-1] == shown(list(text), words)[-1] == whole
    assert len(whole) == len(text)


@settings(max_examples=300)
@given(text=st.text("ab .", max_size=16), words=st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_exactly_the_listed_words_are_masked(text: str, words: list[str]) -> None:
    tokens = text.replace(".", " . ").split(" ")
    expected = " ".join("*" * len(token) if token in words else token for token in tokens)
    assert shown(list(text), words)[-1].replace(".", " . ") == expected
