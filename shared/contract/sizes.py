"""Sizes as one string: `1024x576`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, WithJsonSchema

from shared.contract.context import Context
from shared.contract.field_location import ComputedDefault
from shared.contract.problems import show_value
from shared.contract.rejections import refuse, requires

_PATTERN = re.compile(r"([1-9]\d{0,5})[x*]([1-9]\d{0,5})", re.ASCII)
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


def _parse(text: object) -> Size:
    if isinstance(text, Size):
        return text
    match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise refuse(_ALLOWED, sent=show_value(text))
    return Size(int(match[1]), int(match[2]))


SizeString = Annotated[
    Size,
    BeforeValidator(_parse),
    WithJsonSchema({"type": "string", "pattern": r"^[1-9]\d{0,5}[x*][1-9]\d{0,5}$", "allowed": _ALLOWED}),
]
"""`1024x576` or `1024*576`, parsed to a `Size`."""


def round_side(side: int, step: int, low: int, high: int) -> int:
    """Rounds a side to the nearest multiple of `step` within `low` … `high`."""
    return min(max(round(side / step) * step, low), high)


def default_side(default: Size, index: Literal[0, 1]) -> ComputedDefault:
    """Returns the default of a width (0) or height (1): from `resolution`, else from `default`. Giving only one of the two is an error."""

    def compute(data: Mapping[str, Any], context: Context) -> int:
        other = ("height", "width")[index]
        if other in context.sources:
            raise requires(other, ("width", "height")[index])
        return (data.get("resolution") or default)[index]

    return ComputedDefault(compute, f"{default[index]}, or from `resolution`")
