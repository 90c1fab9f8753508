"""W3C Trace Context, https://www.w3.org/TR/trace-context/: the `traceparent` of a request, which callbacks pass on."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TRACEPARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace_id>[0-9a-f]{32})-(?P<parent_id>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<rest>-.*)?", re.DOTALL
)
_VERSION, _INVALID_VERSION = "00", "ff"
_SAMPLED = 0x01


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The position of a request in a distributed trace.

    Attributes:
        trace_id: 32 hexadecimal digits, not all zero.
        parent_id: 16 hexadecimal digits, not all zero: the caller's span.
        sampled: Whether the caller records this trace.
    """

    trace_id: str
    parent_id: str
    sampled: bool

    @property
    def traceparent(self) -> str:
        """The header's value, of version 00."""
        return f"{_VERSION}-{self.trace_id}-{self.parent_id}-{_SAMPLED if self.sampled else 0:02x}"


def parse_traceparent(value: str) -> TraceContext | None:
    """Parses a `traceparent`.

    Args:
        value: `00-{trace-id}-{parent-id}-{flags}`, in lower case. Of a later version, what follows the flags is ignored, as the
            recommendation asks (section 3.2.4).

    Returns:
        None for a malformed one, which a receiver has to ignore.
    """
    found = _TRACEPARENT.fullmatch(value)
    if found is None or found["version"] == _INVALID_VERSION or (found["version"] == _VERSION and found["rest"] is not None):
        return None
    if not found["trace_id"].strip("0") or not found["parent_id"].strip("0"):
        return None
    return TraceContext(found["trace_id"], found["parent_id"], bool(int(found["flags"], 16) & _SAMPLED))
