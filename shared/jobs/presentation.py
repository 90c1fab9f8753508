"""The form in which a job's result, and the text streamed before it, are returned to RunPod."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from pydantic import JsonValue

from shared.contract.callback import to_dict
from shared.jobs.lifecycle import Completed, Failed

HandlerResponse = dict[str, JsonValue] | str


class Presentation(Protocol):
    """Renders the outputs of one job."""

    def piece(self, text: str) -> HandlerResponse:
        """Renders one piece of streamed text."""

    def result(self, end: Completed | Failed) -> HandlerResponse:
        """Renders the result as a single output. A failed job's has the key `error`, a string: RunPod marks the job FAILED by it."""

    def last(self, end: Completed | Failed) -> Iterator[HandlerResponse]:
        """Renders the outputs that end a stream."""


class PayloadPresentation:
    """The contract's own form: `{"delta": …}` for a piece of text, then the callback payload."""

    def piece(self, text: str) -> HandlerResponse:
        """Renders one piece of streamed text."""
        return {"delta": text}

    def result(self, end: Completed | Failed) -> HandlerResponse:
        """Returns the payload, whether its callback is still pending and, for a failed job, the error message."""
        output: dict[str, JsonValue] = to_dict(end.payload)
        if end.callback_pending:
            output["callback_pending"] = True
        if isinstance(end, Failed):
            output["error"] = end.error.message
        return output

    def last(self, end: Completed | Failed) -> Iterator[HandlerResponse]:
        """Yields the payload."""
        yield self.result(end)
