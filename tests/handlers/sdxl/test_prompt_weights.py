"""The parser for prompt weights."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.sdxl.prompt_weights import PromptWeightError, WeightedText, parse_prompt_weights


@pytest.mark.parametrize(
    ("text", "pieces"),
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
def test_weights_are_parsed_as_by_the_web_ui(text: str, pieces: list[tuple[str, float]]) -> None:
    assert [(piece.text, piece.weight) for piece in parse_prompt_weights(text)] == pieces


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a (red circle", r'an unclosed "\(" at character 3'),
        ("a [red circle", r'an unclosed "\[" at character 3'),
        ("a red) circle", r'an unmatched "\)" at character 6'),
        ("a (red] circle)", r'an unmatched "\]" at character 7'),
        ("red:1.3)", r'an unmatched "\)" at character 4'),
        ("(red:1.2.3)", "a weight that is not a number at character 5"),
        ("(red:1,3)", "a weight that is not a number at character 5"),
        ("(red:)", "a weight that is not a number at character 5"),
        ("(red:11)", "a weight outside -10 to 10 at character 1"),
        ("a ((red:9):9)", "a weight outside -10 to 10 at character 3"),
    ],
)
def test_syntax_errors_are_reported_with_their_position(text: str, message: str) -> None:
    with pytest.raises(PromptWeightError, match=message):
        parse_prompt_weights(text)


@given(st.text(alphabet=st.characters(exclude_characters="()[]\\", codec="utf-8"), min_size=1))
def test_text_without_brackets_is_one_piece(text: str) -> None:
    assert parse_prompt_weights(text) == (WeightedText(text),)


@given(st.text())
def test_escaped_text_is_returned_in_full(text: str) -> None:
    escaped = "".join(f"\\{letter}" if letter in "()[]\\" else letter for letter in text)
    assert "".join(piece.text for piece in parse_prompt_weights(escaped)) == text


@pytest.mark.parametrize(
    "text",
    [
        ":" + " " * 60_000,
        "(a:" + " " * 60_000,
        "(a:1" + " " * 60_000 + "x)",
        ": " * 30_000,
        "(" * 30_000 + ")" * 30_000,
        "([a" * 12_000 + "])" * 12_000,
        "(a:1.0" * 6_000 + ")" * 6_000,
        "[" * 18_000 + "a" + "]" * 18_000,
        r"\(" * 30_000,
        "a)" * 30_000,
    ],
)
def test_parsing_a_text_of_six_times_the_limit_stays_within_the_budget_of_an_input(text: str) -> None:
    """Two seconds of processor time; with backtracking it would be at least twice that."""
    began = time.process_time()
    with suppress(PromptWeightError):
        parse_prompt_weights(text)
    assert time.process_time() - began < 2


def test_outer_weights_may_be_large_where_inner_ones_are_small() -> None:
    (piece,) = parse_prompt_weights("(" * 600 + "a" + ":0.1)" * 300 + ":10)" * 300)
    assert piece.weight == pytest.approx(1.0)
