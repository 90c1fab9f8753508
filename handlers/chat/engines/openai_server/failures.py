"""What a server's failures mean for a job. A server's own words may quote the conversation, so they are used with care."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from handlers.chat.request import ChatRequest
from shared.contract.names import show_name
from shared.errors import (
    ContextLengthExceeded,
    DeviceError,
    GenerationError,
    InternalError,
    JobError,
    ModelUnavailable,
    Problem,
    ValidationError,
)
from shared.telemetry import logger

# Statuses with which the same request may succeed later.
_BUSY = frozenset({408, 409, 425, 429})
# Statuses of a server that does not serve the configured model, or not to this worker.
_NOT_SERVED = frozenset({401, 403, 404, 405})
_ABOUT_A_CONSTRAINT = re.compile(r"grammar|schema|structured.?output|response.?format|regex|guided", re.IGNORECASE)
_MAX_REASON = 200  # characters
_MIN_QUOTED = 4  # characters; a shorter message may occur in a sentence by chance


@dataclass(frozen=True, slots=True)
class ServerRejection(Problem):
    """A field that the inference server rejected. `sent` is the HTTP status, and `allowed` the reason if it may be told."""

    def __str__(self) -> str:
        reason = f": {self.allowed}" if self.allowed else ""
        return f"`{self.field}` was rejected by the inference server ({self.sent}){reason}"


@dataclass(frozen=True)
class RequestContext:
    """What a request's error messages are about.

    Attributes:
        too_long: The error if the server finds that the conversation exceeds the context window.
        constraint: The field with the schema, choice or pattern that the completion must conform to.
        contents: The messages, none of which a reason may quote.
    """

    too_long: ContextLengthExceeded
    constraint: str | None = None
    contents: Sequence[str] = field(default=(), repr=False)

    @classmethod
    def of(cls, request: ChatRequest, too_long: ContextLengthExceeded) -> RequestContext:
        """Returns the context of a request."""
        constraint = request.constraint
        return cls(too_long, constraint.field if constraint else None, [message.content for message in request.messages])


def stream_interrupted() -> GenerationError:
    """Returns the error for a stream that ended before the completion did."""
    return GenerationError("The inference server broke off in the middle of the completion. Send the job again.")


def server_failed() -> DeviceError:
    """Returns the error for a server that no longer responds."""
    return DeviceError("The inference server does not respond; the worker is replaced. Send the job again.")


def to_job_error(status: int, content: str | bytes, context: RequestContext) -> JobError:
    """Maps a server's error response to a job error. The response is logged at DEBUG only.

    Args:
        status: The HTTP status, or the code of an error event.
        content: The body.
        context: What the request was about.
    """
    logger().debug("inference server error", http_status=status, body=str(content))
    details = error_object(_parsed(content))
    message = str(details.get("message") or "")
    if status in _BUSY:
        return InternalError("The inference server is busy. Send the job again.")
    # Some servers compile a grammar only after they have accepted the request, and then report an error of their own.
    if context.constraint is not None and status not in _NOT_SERVED and _ABOUT_A_CONSTRAINT.search(message):
        return ValidationError([ServerRejection(context.constraint, f"HTTP {status}", _reason(message, context.contents))])
    if not 400 <= status < 500:
        return InternalError("The inference server failed. Send the job again.")
    if status in _NOT_SERVED:
        return ModelUnavailable("The inference server does not serve the configured model to this worker. Its log says more.")
    if details.get("code") == "context_length_exceeded" or "context length" in message.lower():
        return context.too_long
    name = show_name(details["param"]) if isinstance(details.get("param"), str) else "input"
    return ValidationError([ServerRejection(name, f"HTTP {status}", "")])


def error_object(body: object) -> dict[str, Any]:
    """Returns the error details, from either of the two forms that servers use; empty if there are none."""
    inner = body.get("error", body) if isinstance(body, dict) else None
    return inner if isinstance(inner, dict) else {}


def _reason(message: str, contents: Sequence[str]) -> str:
    """Returns a server's reason for rejecting a constraint, which is about the constraint, without anything that a message says."""
    for content in {content for content in contents if len(content) >= _MIN_QUOTED}:
        message = message.replace(content, "…")
    return " ".join(message.split())[:_MAX_REASON]


def _parsed(content: str | bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None
