"""The trace of a job, as callbacks and log lines name it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from shared.trace_context import TraceContext


class JobTrace:
    """The trace of one job. This class records no spans: it hands on the caller's position in the trace unchanged.

    Args:
        context: From the request; None if it named none.
    """

    def __init__(self, context: TraceContext | None) -> None:
        self.context = context

    def stage(self, _name: str) -> AbstractContextManager[object]:
        """Records the block as a stage of the job: `validate`, `fetch`, `generate`, `encode`, `upload`, `callback`. Thread-safe."""
        return nullcontext()

    def end(self, outcome: str, error_code: str | None) -> None:
        """Records how the job has ended: `completed`, `failed` or `stopped`; and the code of its error, if it has one."""


class Tracer:
    """Starts the traces of jobs. This class exports nothing."""

    def start(self, context: TraceContext | None, _attributes: Mapping[str, str]) -> JobTrace:
        """Starts the trace of a job.

        Args:
            context: The caller's position in a trace; None if the request named none.
            _attributes: Values that are safe to export: ids and types, no prompt and no path.
        """
        return JobTrace(context)
