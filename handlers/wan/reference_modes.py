"""The valid combinations of reference images, and the mode of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from shared.contract.context import Context
from shared.contract.rejections import conflict, refuse, requires

ReferenceMode = Literal["none", "single", "start", "end", "both"]

CLIP_REFERENCES = ("image", "first_frame", "last_frame")
"""The request fields."""

_MODES: Mapping[tuple[str, ...], ReferenceMode] = {
    (): "none",
    ("image",): "single",
    ("first_frame",): "start",
    ("last_frame",): "end",
    ("first_frame", "last_frame"): "both",
}


def infer_reference_mode(data: Mapping[str, Any], _: Context) -> ReferenceMode:
    """Returns the mode of the given references.

    Raises:
        PydanticCustomError: They cannot be combined.
    """
    mode = _MODES.get(_given(data))
    if mode is None:
        raise conflict("image", "first_frame", "last_frame")
    return mode


def check_reference_mode(mode: ReferenceMode, data: Mapping[str, Any]) -> None:
    """Checks that a mode uses exactly the given references.

    Raises:
        PydanticCustomError: A reference is missing, or would be ignored.
    """
    given, expected = _given(data), infer_reference_mode(data, Context())
    needed = next(names for names, matching in _MODES.items() if matching == mode)
    if set(given) < set(needed):
        raise requires(f'config.reference_mode: "{mode}"', *(name for name in needed if name not in given))
    if mode != expected:
        raise refuse(f'"{expected}" with {" and ".join(f"`config.{name}`" for name in given)}', sent=f'"{mode}"', nearest=expected)


def _given(data: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in CLIP_REFERENCES if data.get(name) is not None)
