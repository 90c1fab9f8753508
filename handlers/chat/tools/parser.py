"""Finds the tool calls in a completion, in the format of Qwen and Hermes: `<tool_call>{"name": …, "arguments": …}</tool_call>`."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from handlers.chat.tools.tags import CLOSING, OPENING

_BLANK = re.compile(r"\s*")


def _reject(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_reject)


@dataclass(frozen=True)
class FunctionCall:
    """A call as the model has written it.

    Attributes:
        name: The name of a function.
        arguments: A JSON object.
    """

    name: str
    arguments: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class SplitText:
    """A text, split into content and calls. Both only grow with the text.

    Attributes:
        content: The text outside of calls. Whitespace next to a call is not part of it.
        calls: The complete calls.
    """

    content: str = field(repr=False)
    calls: tuple[FunctionCall, ...]


def split_calls(text: str, names: Collection[str], *, final: bool) -> SplitText:
    """Splits a completion. What is not a valid call of a known function is content.

    Args:
        text: The completion so far.
        names: The names of the functions.
        final: Whether it is finished. Until then, whatever later text may change is left out.
    """
    parts = [""]  # between the calls
    calls: list[FunctionCall] = []
    position = 0
    while (start := text.find(OPENING, position)) >= 0:
        parts[-1] += text[position:start]
        call, end = _read_call(text, start + len(OPENING), names, final=final)
        if end is None:
            return _split(parts, calls, final=False)
        if call is not None:
            calls.append(call)
            parts.append("")
        else:
            parts[-1] += text[start:end]
        position = end
    parts[-1] += text[position:] if final else text[position : len(text) - _partial_tag(text)]
    return _split(parts, calls, final=final)


def _split(parts: list[str], calls: list[FunctionCall], *, final: bool) -> SplitText:
    content = "".join(part for part in parts if part.strip() or not calls)
    return SplitText(content if final and not calls else content.rstrip(), tuple(calls))


def _partial_tag(text: str) -> int:
    """Returns the number of characters at the end that may be the beginning of a tag."""
    return next((size for size in range(len(OPENING) - 1, 0, -1) if text.endswith(OPENING[:size])), 0)


def _read_call(text: str, start: int, names: Collection[str], *, final: bool) -> tuple[FunctionCall | None, int | None]:
    """Reads the call after a tag.

    Returns:
        The call and its end; no call and the end of the tag, if there is none; or no end, if later text decides.
    """
    invalid = (None, start)
    begin = _skip_blank(text, start)
    try:
        value, end = _DECODER.raw_decode(text, begin)
    except (ValueError, RecursionError):
        return invalid if final or text[begin : begin + 1] not in ("", "{") else (None, None)
    end = _skip_blank(text, end)
    if not text.startswith(CLOSING, end) and not CLOSING.startswith(text[end:]):
        return invalid
    if not text.startswith(CLOSING, end) and not final:
        return None, None
    arguments = value.get("arguments") if isinstance(value, dict) else None
    if not isinstance(arguments, dict) or value.get("name") not in names:
        return invalid
    return FunctionCall(value["name"], arguments), min(end + len(CLOSING), len(text))


def _skip_blank(text: str, start: int) -> int:
    match = _BLANK.match(text, start)
    return match.end() if match is not None else start
