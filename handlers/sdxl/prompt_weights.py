"""Parser for prompt weights in AUTOMATIC1111's syntax: `(red:1.3)`, `(red)`, `[red]` (docs/decisions/0006)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

BRACKET_FACTOR = 1.1
"""`(…)` multiplies a weight by this factor and `[…]` divides by it, as in the web UI (modules/prompt_parser.py there)."""
MAX_WEIGHT = 10.0
"""The largest absolute weight. Images degrade far below it."""

_TOKEN = re.compile(
    r"""\\(?P<escaped>[()\[\]\\])       # \( is a literal bracket
    |(?P<open>[(\[])
    |:\s*+(?P<number>[-+.,\d]*+)\s*+\)  # :1.3), without backtracking
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


@dataclass
class _Group:
    """An open bracket.

    Attributes:
        bracket: `(` or `[`.
        position: In characters from 1.
        factor: Of the weights inside; known once it is closed.
        largest: The largest absolute weight inside, without the brackets around this one.
    """

    bracket: str
    position: int
    factor: float = 1.0
    largest: float = 0.0


class _Parser:
    """Parses in time linear in the text: groups know their factor when they close, and weights are multiplied once, from the outside in."""

    def __init__(self) -> None:
        self._items: list[str | _Group | None] = []  # texts and groups in order; None closes a group
        self._open: list[_Group] = []

    def parse(self, text: str) -> tuple[WeightedText, ...]:
        for match in _TOKEN.finditer(text):
            position = match.start() + 1
            if match["open"]:
                self._open.append(_Group(match["open"], position))
                self._items.append(self._open[-1])
            elif match["number"] is not None:
                self._close(")", position, _parse_number(match["number"], position))
            elif match["close"]:
                self._close(match["close"], position, BRACKET_FACTOR if match["close"] == ")" else 1 / BRACKET_FACTOR)
            else:
                self._items.append(match["escaped"] or match["text"])
                self._note_weight(1.0)
        if self._open:
            raise PromptWeightError(f'an unclosed "{self._open[-1].bracket}"', self._open[-1].position)
        pieces = groupby(self._weighted(), key=itemgetter(1))
        return tuple(WeightedText("".join(text for text, _ in texts), weight) for weight, texts in pieces)

    def _note_weight(self, weight: float) -> None:
        if self._open:
            self._open[-1].largest = max(self._open[-1].largest, weight)

    def _close(self, bracket: str, position: int, factor: float) -> None:
        if not self._open or self._open[-1].bracket != _PARTNER[bracket]:
            raise PromptWeightError(f'an unmatched "{bracket}"', position)
        group = self._open.pop()
        group.factor, group.largest = factor, group.largest * abs(factor)
        if max(abs(factor), group.largest) > MAX_WEIGHT:
            raise PromptWeightError(f"a weight outside -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}", group.position)
        self._items.append(None)
        self._note_weight(group.largest)

    def _weighted(self) -> Iterator[tuple[str, float]]:
        # Mantissa and exponent: the factors around a text may overflow before those inside make up for it.
        products = [(1.0, 0)]
        for item in self._items:
            if item is None:
                products.pop()
            elif isinstance(item, _Group):
                mantissa, exponent = math.frexp(products[-1][0] * item.factor)
                products.append((mantissa, exponent + products[-1][1]))
            else:
                yield item, math.ldexp(*products[-1])


def _parse_number(word: str, position: int) -> float:
    if not _NUMBER.fullmatch(word):
        raise PromptWeightError("a weight that is not a number", position)
    return float(word)
