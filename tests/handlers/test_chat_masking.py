"""Masked words never show, not even while they are written, and no other word suffers."""

from __future__ import annotations

from collections.abc import Sequence

from handlers.chat.masking import Masked


def write(text: str, masked: Sequence[str]) -> str:
    """What comes of a text, however it is cut into pieces."""
    ends = {_write([text[at : at + size] for at in range(0, len(text), size)], masked) for size in range(1, len(text) + 1)}
    (end,) = ends
    return end


def _write(pieces: Sequence[str], words: Sequence[str]) -> str:
    masked, shown = Masked(words), [""]
    for piece in pieces:
        masked.add(piece)
        shown.append(masked.shown)
    for earlier, later in zip(shown, [*shown[1:], masked.final], strict=True):
        assert later.startswith(earlier), "something was taken back"
    return masked.final


def test_a_masked_word_is_masked_in_any_case_and_only_as_a_whole() -> None:
    assert write("Her heron, HER herons; her.", ["her"]) == "*** heron, *** herons; ***."


def test_a_word_that_begins_like_a_masked_one_is_not_masked_while_it_is_written() -> None:
    for length in range(1, 7):
        assert write("so beautiful", ["beautiful"[:length]]) == "so beautiful"


def test_a_word_that_begins_with_two_masked_ones_is_none_of_them() -> None:
    assert write("foobaz foo bar foobar", ["foo", "bar"]) == "foobaz *** *** foobar"


def test_a_masked_word_with_signs_in_it_is_taken_literally() -> None:
    assert write("a.b acb", ["a.b"]) == "*** acb"
