"""The presentation of a job: the form in which its result, and the pieces streamed before it, are returned to RunPod."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self

from pydantic import JsonValue

from shared.contract.callback import to_dict
from shared.jobs.lifecycle import Completed, Failed

HandlerResponse = dict[str, JsonValue] | str
"""A value that a RunPod handler returns, or yields."""


class Presentation(Protocol):
    """Renders the responses of one job."""

    @property
    def streams(self) -> bool:
        """Whether the caller reads a stream."""

    def delta(self, pieces: Sequence[Any]) -> HandlerResponse:
        """Renders pieces of the output that the recipe has emitted."""

    def result(self, outcome: Completed | Failed) -> HandlerResponse:
        """Renders the result as a single response. If the job failed it has the key `error`, a string: RunPod then marks the job FAILED."""

    def final(self, outcome: Completed | Failed) -> Iterator[HandlerResponse]:
        """Renders the responses that end a stream. The last one of a failed job has the key `error`."""


class PayloadPresentation:
    """The contract's own form: `{"delta": …}` for pieces of the output, then the callback payload.

    Args:
        streams: Whether the caller reads a stream.
    """

    def __init__(self, *, streams: bool = False) -> None:
        self.streams = streams

    @classmethod
    def of(cls, _job_id: str, _raw: object) -> Self:
        """Returns the presentation of a job: the same for every input."""
        return cls()

    def delta(self, pieces: Sequence[Any]) -> HandlerResponse:
        """Renders pieces of the output."""
        return {"delta": list(pieces)}

    def result(self, outcome: Completed | Failed) -> HandlerResponse:
        """Returns the payload, plus `callback_pending` if its callback is not delivered yet, plus `error` if the job failed."""
        response: dict[str, JsonValue] = to_dict(outcome.payload)
        if outcome.callback_pending:
            response["callback_pending"] = True
        if isinstance(outcome, Failed):
            response["error"] = outcome.error.message
        return response

    def final(self, outcome: Completed | Failed) -> Iterator[HandlerResponse]:
        """Yields the payload. A failed job's is streamed first without `error`: the SDK does not stream what ends a job as failed."""
        if isinstance(outcome, Failed):
            yield to_dict(outcome.payload)
        yield self.result(outcome)


def ends_as_failed(response: HandlerResponse) -> bool:
    """Returns whether a response makes RunPod mark the job as failed. It is not part of the stream."""
    return isinstance(response, dict) and "error" in response
