"""Contains the failure of one sequence, so that the others of its batch and the engine continue."""

from __future__ import annotations

from types import TracebackType

from shared.errors import InternalError, JobError, classify
from shared.telemetry import log_error

_UNEXPECTED = "The completion failed unexpectedly. Send the job again, or ask the operator to search the worker's log for this job."


class Containment:
    """A context manager around work for one sequence. It suppresses any error but the loss of the device, which fails the whole engine.

    Attributes:
        error: The error of the sequence, if the work has failed.
    """

    def __init__(self) -> None:
        self.error: JobError | None = None

    def __enter__(self) -> Containment:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if not isinstance(error, Exception):
            return False
        failure = classify(error, "")
        if failure.replaces_worker:
            return False
        if isinstance(failure, InternalError):
            log_error("sequence failed", error)
            failure = InternalError(_UNEXPECTED)
        self.error = failure
        return True
