"""Widths and heights as one word: `1024x576`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, WithJsonSchema

from shared.contract.context import Context
from shared.contract.field_location import ComputedDefault, refuse
from shared.contract.problems import show_value

_WORD = re.compile(r"([1-9]\d{0,5})[x*]([1-9]\d{0,5})", re.ASCII)
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
        raise refuse(_ALLOWED, sent=show_value(word))
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


def side_of(default: Size, index: Literal[0, 1]) -> ComputedDefault:
    """What an absent width (0) or height (1) counts as: that of `resolution`, else of a default. One is never given without the other."""

    def compute(data: Mapping[str, Any], context: Context) -> int:
        other = ("height", "width")[index]
        if other in context.sources:
            raise refuse(f"given together with {other}")
        return (data.get("resolution") or default)[index]

    return ComputedDefault(compute, f"{default[index]}, or from `resolution`")
