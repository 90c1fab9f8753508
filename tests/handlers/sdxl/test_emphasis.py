from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.sdxl.emphasis import BadEmphasis, Phrase, read_emphasis


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a red circle", [("a red circle", 1.0)]),
        ("a (red:1.3) circle", [("a ", 1.0), ("red", 1.3), (" circle", 1.0)]),
        ("a (red) circle", [("a ", 1.0), ("red", 1.1), (" circle", 1.0)]),
        ("a [red] circle", [("a ", 1.0), ("red", 1 / 1.1), (" circle", 1.0)]),
        ("((red))", [("red", 1.1 * 1.1)]),
        ("(a (red:2) circle:0.5)", [("a ", 0.5), ("red", 1.0), (" circle", 0.5)]),
        ("(red: .5 )", [("red", 0.5)]),
        ("(red:-1)", [("red", -1.0)]),
        ("(red:0)", [("red", 0.0)]),
        (r"a \(red\) \[circle\]", [("a (red) [circle]", 1.0)]),
        (r"(\(red\):1.2)", [("(red)", 1.2)]),
        (r"back\\slash and \n", [("back\\slash and \\n", 1.0)]),
        ("a (red:1.0) circle", [("a red circle", 1.0)]),
        ("(style: flat)", [("style: flat", 1.1)]),
        ("[red:1.3]", [("red:1.3", 1 / 1.1)]),
        ("16:9, 1:1.3", [("16:9, 1:1.3", 1.0)]),
        ("()", []),
        ("", []),
        ("(🙂:1.5) é", [("🙂", 1.5), (" é", 1.0)]),
    ],
)
def test_brackets_and_numbers_mean_what_the_web_ui_means(text: str, phrases: list[tuple[str, float]]) -> None:
    assert [(phrase.text, phrase.weight) for phrase in read_emphasis(text)] == phrases


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a (red circle", r'a "\(" that is never closed at character 3'),
        ("a [red circle", r'a "\[" that is never closed at character 3'),
        ("a red) circle", r'a "\)" that closes nothing at character 6'),
        ("a (red] circle)", r'a "\]" that closes nothing at character 7'),
        ("red:1.3)", r'a "\)" that closes nothing at character 4'),
        ("(red:1.2.3)", "a weight that is no number at character 5"),
        ("(red:1,3)", "a weight that is no number at character 5"),
        ("(red:)", "a weight that is no number at character 5"),
        ("(red:11)", "a weight outside of -10 to 10 at character 1"),
        ("a ((red:9):9)", "a weight outside of -10 to 10 at character 3"),
    ],
)
def test_what_means_nothing_is_refused_with_its_position(text: str, message: str) -> None:
    with pytest.raises(BadEmphasis, match=message):
        read_emphasis(text)


@given(st.text(alphabet=st.characters(exclude_characters="()[]\\", codec="utf-8"), min_size=1))
def test_text_without_brackets_is_one_phrase(text: str) -> None:
    assert read_emphasis(text) == (Phrase(text),)


@given(st.text())
def test_escaped_text_comes_back_whole(text: str) -> None:
    escaped = "".join(f"\\{letter}" if letter in "()[]\\" else letter for letter in text)
    assert "".join(phrase.text for phrase in read_emphasis(escaped)) == text
