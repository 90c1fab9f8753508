"""Calls diffusers pipelines with a callback after each step, which can report progress or stop the call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor


class OnStep(Protocol):
    """A callback after each step."""

    def __call__(self, done: int, total: int, *, preview: str | None = None) -> None:
        """Receives the number of completed steps, the total, and a preview as a `data:` URL if there is one."""


def call_pipeline(pipeline: Any, on_step: OnStep, preview: Callable[[Tensor], str | None] | None = None, **arguments: Any) -> Any:
    """Calls a pipeline.

    Args:
        pipeline: Any diffusers pipeline with `callback_on_step_end`.
        on_step: Called after each step. An exception that it raises ends the call and leaves the pipeline as it was.
        preview: Renders the pipeline's latents after a step; may return None.
        arguments: Of the pipeline, which ignores unknown ones.

    Returns:
        What the pipeline returns.
    """

    def after_step(pipeline: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        on_step(step + 1, pipeline.num_timesteps, preview=preview(values["latents"]) if preview is not None else None)
        return values

    try:
        return pipeline(callback_on_step_end=after_step, **arguments)
    finally:
        # The pipeline does this itself only at its normal end, not after an exception in a step.
        pipeline.maybe_free_model_hooks()


@contextmanager
def with_scheduler(pipeline: Any, scheduler: Any) -> Iterator[None]:
    """Gives a pipeline another scheduler while the body runs."""
    before = pipeline.scheduler
    pipeline.scheduler = scheduler
    try:
        yield
    finally:
        pipeline.scheduler = before
