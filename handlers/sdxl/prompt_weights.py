"""Parser for prompt weights in AUTOMATIC1111's syntax: `(red:1.3)`, `(red)`, `[red]` (docs/decisions/0006)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

BRACKET_FACTOR = 1.1
"""`(…)` multiplies a weight by this factor and `[…]` divides by it, as in the web UI (modules/prompt_parser.py there)."""
MAX_WEIGHT = 10.0
"""The largest absolute weight. Images degrade far below it."""

_TOKEN = re.compile(
    r"""\\(?P<escaped>[()\[\]\\])       # \( is a literal bracket
    |(?P<open>[(\[])
    |:\s*(?P<number>[-+.,\d]*)\s*\)     # :1.3)
    |(?P<close>[)\]])
    |(?P<text>[^\\()\[\]:]+|[\\:])""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)")
_PARTNER = {")": "(", "]": "["}


@dataclass(frozen=True, slots=True)
class WeightedText:
    """A piece of a prompt and its weight; 1 is neutral."""

    text: str = field(repr=False)
    weight: float = 1.0


class PromptWeightError(ValueError):
    """A syntax error in a weighted prompt.

    Args:
        problem: The error, without any text of the prompt.
        position: Where it starts, in characters from 1.
    """

    def __init__(self, problem: str, position: int) -> None:
        super().__init__(f"{problem} at character {position}")


def parse_prompt_weights(text: str) -> tuple[WeightedText, ...]:
    r"""Splits a prompt into pieces of equal weight.

    Args:
        text: `(a)` has weight 1.1, `[a]` 1 / 1.1 and `(a:1.3)` 1.3; nested brackets multiply. `\(` is a literal bracket.

    Returns:
        The whole text without its markup; adjacent pieces have different weights.

    Raises:
        PromptWeightError: A bracket is unbalanced, a weight is not a number, or a weight is outside ±10.
    """
    return _Parser().parse(text)


class _Parser:
    def __init__(self) -> None:
        self._texts: list[str] = []
        self._weights: list[float] = []
        self._open: list[tuple[str, int, int]] = []  # the bracket, its position, and the number of texts before it

    def parse(self, text: str) -> tuple[WeightedText, ...]:
        for match in _TOKEN.finditer(text):
            position = match.start() + 1
            if match["open"]:
                self._open.append((match["open"], position, len(self._texts)))
            elif match["number"] is not None:
                self._close(")", position, _parse_number(match["number"], position))
            elif match["close"]:
                self._close(match["close"], position, BRACKET_FACTOR if match["close"] == ")" else 1 / BRACKET_FACTOR)
            else:
                self._texts.append(match["escaped"] or match["text"])
                self._weights.append(1.0)
        if self._open:
            bracket, position, _ = self._open[-1]
            raise PromptWeightError(f'an unclosed "{bracket}"', position)
        return self._merged()

    def _close(self, bracket: str, position: int, factor: float) -> None:
        if not self._open or self._open[-1][0] != _PARTNER[bracket]:
            raise PromptWeightError(f'an unmatched "{bracket}"', position)
        _, opened, first = self._open.pop()
        self._weights[first:] = [weight * factor for weight in self._weights[first:]]
        if any(abs(weight) > MAX_WEIGHT for weight in [factor, *self._weights[first:]]):
            raise PromptWeightError(f"a weight outside -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}", opened)

    def _merged(self) -> tuple[WeightedText, ...]:
        merged: list[WeightedText] = []
        for text, weight in zip(self._texts, self._weights, strict=True):
            if merged and merged[-1].weight == weight:
                text = merged.pop().text + text
            merged.append(WeightedText(text, weight))
        return tuple(merged)


def _parse_number(word: str, position: int) -> float:
    if not _NUMBER.fullmatch(word):
        raise PromptWeightError("a weight that is not a number", position)
    return float(word)
