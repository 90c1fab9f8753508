"""Masked words never show, not even while they are written, and no other word suffers."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from handlers.chat.masking import Masked, WordList


def write(text: str, masked: Sequence[str]) -> str:
    """What comes of a text, however it is cut into pieces."""
    ends = {shown(cut(text, size), masked)[-1] for size in range(1, len(text) + 1)}
    (end,) = ends
    return end


def cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def shown(pieces: Sequence[str], words: Sequence[str]) -> list[str]:
    """Everything that a reader sees, the whole text last."""
    masked, seen = Masked(WordList(words)), [""]
    for piece in pieces:
        masked.add(piece)
        seen.append(masked.shown)
    seen.append(masked.final)
    for earlier, later in itertools.pairwise(seen):
        assert later.startswith(earlier), "something was taken back"
    return seen


def test_a_masked_word_is_masked_in_any_case_and_only_as_a_whole() -> None:
    assert write("Her heron, HER herons; her.", ["her"]) == "*** heron, *** herons; ***."


@pytest.mark.parametrize("town", ["Scunthorpe", "Penistone", "Essex", "Cockermouth", "Lightwater"])
def test_innocent_words_are_left_alone(town: str) -> None:
    listed = ["cunt", "penis", "sex", "cock", "twat", "ass"]
    text = f"{town}, the classic passage to {town.lower()}shire's assassin and {town.upper()}"
    assert write(text, listed) == text


def test_a_word_that_begins_like_a_masked_one_is_not_masked_while_it_is_written() -> None:
    for length in range(1, 7):
        assert write("so beautiful", ["beautiful"[:length]]) == "so beautiful"


def test_a_word_that_begins_with_two_masked_ones_is_none_of_them() -> None:
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
def test_a_masked_word_with_signs_in_it_is_taken_literally(text: str, word: str, expected: str) -> None:
    assert write(text, [word]) == expected


def test_what_sets_a_word_off_is_no_part_of_it() -> None:
    assert write("_damn_ (damn) `damn` damn's damn-it “damn”", ["damn"]) == "_****_ (****) `****` ****'s ****-it “****”"


def test_a_phrase_is_masked_however_its_words_are_set_apart() -> None:
    assert write("New York, new\n  york; new yorker, newyork new", ["new york"]) == "*** ****, ***\n  ****; new yorker, newyork new"


def test_of_two_that_begin_together_the_longer_counts() -> None:
    for words in (["new york", "new york city"], ["new york city", "new york"]):
        assert write("new york city new york cit", words) == "*** **** **** *** **** cit"


def test_of_two_that_overlap_the_first_counts() -> None:
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
def test_words_of_every_script(text: str, word: str, expected: str) -> None:
    assert write(text, [word]) == expected


def test_an_accent_may_be_a_character_of_its_own() -> None:
    apart = unicodedata.normalize("NFD", "café")
    assert write(f"café {apart} {apart}s", ["café"]) == f"**** ***** {apart}s"
    assert write(f"cafe café {apart}", ["cafe"]) == f"**** café {apart}", "another word"


def test_without_words_everything_is_shown_at_once() -> None:
    assert shown(["a", "b c"], []) == ["", "a", "ab c", "ab c"]


def test_only_what_may_become_a_masked_word_is_held_back() -> None:
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
def test_however_a_text_is_cut_a_reader_sees_the_same_and_nothing_is_taken_back(
    text: str, words: list[str], data: st.DataObject | None
) -> None:
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
