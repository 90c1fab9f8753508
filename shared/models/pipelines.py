"""Calling a diffusers pipeline so that each of its steps can be watched, and ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def call_pipeline(pipeline: Any, on_step: Callable[[int, int], None], **arguments: Any) -> Any:
    """Calls a pipeline.

    Args:
        pipeline: Any of diffusers' pipelines with `callback_on_step_end`.
        on_step: Called after each step with the steps done and their number. What it raises ends the call at once, and leaves the pipeline
            as it was.
        arguments: For the pipeline. It ignores names that it does not know.

    Returns:
        What the pipeline returns.
    """

    def after_step(pipeline: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        on_step(step + 1, pipeline.num_timesteps)
        return values

    try:
        return pipeline(callback_on_step_end=after_step, **arguments)
    finally:
        # The pipeline does it itself only at its end, not when a step has raised.
        pipeline.maybe_free_model_hooks()


@contextmanager
def scheduled_by(pipeline: Any, scheduler: Any) -> Iterator[None]:
    """Puts a scheduler on a pipeline, and the one before it back whatever happens."""
    before = pipeline.scheduler
    pipeline.scheduler = scheduler
    try:
        yield
    finally:
        pipeline.scheduler = before
