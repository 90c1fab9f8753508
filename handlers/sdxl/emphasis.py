"""Weights in a prompt: `(red:1.3)`, `(red)`, `[red]`, as AUTOMATIC1111's web UI means them (docs/decisions/0006)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

STRONGER = 1.1
"""What `(` … `)` multiplies by, as in the web UI (modules/prompt_parser.py there); `[` … `]` divides by it."""
LARGEST = 10.0
"""The largest weight, either way. Far below it pictures already fall apart."""

_TOKEN = re.compile(
    r"""\\(?P<escaped>[()\[\]\\])       # \( is a bracket that is text
    |(?P<open>[(\[])
    |:\s*(?P<number>[-+.,\d]*)\s*\)     # :1.3)
    |(?P<close>[)\]])
    |(?P<text>[^\\()\[\]:]+|[\\:])""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)")
_PARTNER = {")": "(", "]": "["}


@dataclass(frozen=True, slots=True)
class Phrase:
    """Some text and how strongly it counts; 1 is as usual."""

    text: str = field(repr=False)
    weight: float = 1.0


class BadEmphasis(ValueError):
    """Brackets or numbers that mean nothing.

    Args:
        problem: What is wrong, without a word of the prompt.
        position: The character it begins at; the first is 1.
    """

    def __init__(self, problem: str, position: int) -> None:
        super().__init__(f"{problem} at character {position}")


def read_emphasis(text: str) -> tuple[Phrase, ...]:
    r"""Takes a prompt apart by its weights.

    Args:
        text: `(a)` counts 1.1 times as much, `[a]` so much less, `(a:1.3)` 1.3 times; brackets in brackets multiply. `\(` is text.

    Returns:
        Phrases without marks, no two neighbours of the same weight; they make up the whole text.

    Raises:
        BadEmphasis: A bracket has no partner, a number is none, or a weight is outside of ±10.
    """
    return _Reader().read(text)


class _Reader:
    def __init__(self) -> None:
        self._texts: list[str] = []
        self._weights: list[float] = []
        self._open: list[tuple[str, int, int]] = []  # the bracket, its position, the number of texts before it

    def read(self, text: str) -> tuple[Phrase, ...]:
        for match in _TOKEN.finditer(text):
            position = match.start() + 1
            if match["open"]:
                self._open.append((match["open"], position, len(self._texts)))
            elif match["number"] is not None:
                self._close(")", position, _number(match["number"], position))
            elif match["close"]:
                self._close(match["close"], position, STRONGER if match["close"] == ")" else 1 / STRONGER)
            else:
                self._texts.append(match["escaped"] or match["text"])
                self._weights.append(1.0)
        if self._open:
            bracket, position, _ = self._open[-1]
            raise BadEmphasis(f'a "{bracket}" that is never closed', position)
        return self._joined()

    def _close(self, bracket: str, position: int, factor: float) -> None:
        if not self._open or self._open[-1][0] != _PARTNER[bracket]:
            raise BadEmphasis(f'a "{bracket}" that closes nothing', position)
        _, opened, first = self._open.pop()
        self._weights[first:] = [weight * factor for weight in self._weights[first:]]
        if any(abs(weight) > LARGEST for weight in [factor, *self._weights[first:]]):
            raise BadEmphasis(f"a weight outside of -{LARGEST:g} to {LARGEST:g}", opened)

    def _joined(self) -> tuple[Phrase, ...]:
        phrases: list[Phrase] = []
        for text, weight in zip(self._texts, self._weights, strict=True):
            if phrases and phrases[-1].weight == weight:
                text = phrases.pop().text + text
            phrases.append(Phrase(text, weight))
        return tuple(phrases)


def _number(word: str, position: int) -> float:
    if not _NUMBER.fullmatch(word):
        raise BadEmphasis("a weight that is no number", position)
    return float(word)
