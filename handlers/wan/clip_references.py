"""Which references a clip may have together, and what their mode is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from shared.contract.context import Context
from shared.contract.field_location import refuse

ReferenceMode = Literal["none", "single", "start", "end", "both"]

CLIP_REFERENCES = ("image", "first_frame", "last_frame")
"""The fields."""

_MODES: Mapping[tuple[str, ...], ReferenceMode] = {
    (): "none",
    ("image",): "single",
    ("first_frame",): "start",
    ("last_frame",): "end",
    ("first_frame", "last_frame"): "both",
}
"""Which mode goes with which references."""


def mode_of(data: Mapping[str, Any], _: Context) -> ReferenceMode:
    """The mode of the references that are given.

    Raises:
        PydanticCustomError: No mode goes with these.
    """
    mode = _MODES.get(_given(data))
    if mode is None:
        raise refuse("given: config.image goes with neither config.first_frame nor config.last_frame")
    return mode


def ensure_fitting(mode: ReferenceMode, data: Mapping[str, Any]) -> None:
    """Refuses a mode that needs a reference which is not given, or would ignore one that is.

    Raises:
        PydanticCustomError: It names both.
    """
    given = _given(data)
    needed = next(names for names, fitting in _MODES.items() if fitting == mode)
    missing = [f"config.{name}" for name in needed if name not in given]
    ignored = [f"config.{name}" for name in given if name not in needed]
    reasons = []
    if missing:
        reasons.append(f'"{mode}" also needs {" and ".join(missing)}')
    if ignored:
        reasons.append(f'"{mode}" would ignore {" and ".join(ignored)}')
    if reasons:
        raise refuse(f"the mode of the references given ({', '.join(reasons)})", sent=f'"{mode}"', nearest=_MODES.get(given))


def _given(data: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in CLIP_REFERENCES if data.get(name) is not None)
