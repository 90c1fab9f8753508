"""Widths and heights as one word: `1024x576`."""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, WithJsonSchema

from shared.contract.problems import describe
from shared.contract.wire import refuse

_WORD = re.compile(r"([1-9]\d{0,5})[x*]([1-9]\d{0,5})")
_ALLOWED = 'a width and a height in pixels, such as "1024x576"'


class Size(NamedTuple):
    """A width and a height, in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def area(self) -> int:
        """Width × height."""
        return self.width * self.height


def _from_word(word: object) -> Size:
    if isinstance(word, Size):
        return word
    match = _WORD.fullmatch(word) if isinstance(word, str) else None
    if match is None:
        raise refuse(_ALLOWED, sent=describe(word))
    return Size(int(match[1]), int(match[2]))


SizeWord = Annotated[
    Size,
    BeforeValidator(_from_word),
    WithJsonSchema({"type": "string", "pattern": r"^[1-9]\d{0,5}[x*][1-9]\d{0,5}$", "allowed": _ALLOWED}),
]
"""`1024x576` or `1024*576`, read as a `Size`."""


def round_side(side: int, step: int, low: int, high: int) -> int:
    """The multiple of `step` from `low` to `high` that is nearest to a side."""
    return min(max(round(side / step) * step, low), high)
