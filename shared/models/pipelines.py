"""Calling a diffusers pipeline so that each of its steps can be watched, and ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor


class OnStep(Protocol):
    """What is called after each step."""

    def __call__(self, done: int, total: int, *, preview: str | None = None) -> None:
        """Told the steps done, their number, and what there is so far, as a `data:` URL, where that was asked for."""


def call_pipeline(pipeline: Any, on_step: OnStep, show: Callable[[Tensor], str | None] | None = None, **arguments: Any) -> Any:
    """Calls a pipeline.

    Args:
        pipeline: Any of diffusers' pipelines with `callback_on_step_end`.
        on_step: Called after each step. What it raises ends the call at once, and leaves the pipeline as it was.
        show: Makes a preview of the pipeline's latents as they are after a step, or makes none.
        arguments: For the pipeline. It ignores names that it does not know.

    Returns:
        What the pipeline returns.
    """

    def after_step(pipeline: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        on_step(step + 1, pipeline.num_timesteps, preview=show(values["latents"]) if show is not None else None)
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
