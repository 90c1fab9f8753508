"""Progress of an SDXL job over all of its pipeline calls."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from shared.jobs.recipe import JobRun


class ProgressCounter:
    """Reports the steps of several batches, each a base pass and an optional refiner pass, as the steps of one job.

    Args:
        run: Receives the reports.
        batches: The number of batches.
        refiner_steps: The refiner's steps per batch.
        preview: Renders latents, or returns None for a step without a preview.
    """

    def __init__(self, run: JobRun, batches: int, refiner_steps: int = 0, preview: Callable[[Tensor], str | None] | None = None) -> None:
        self.preview = preview
        self._run = run
        self._batches = batches
        self._refiner_steps = refiner_steps
        self._base_steps = 0
        self._batches_done = 0

    def base_step(self, done: int, total: int, *, preview: str | None = None) -> None:
        """Reports a step of the base pass.

        Raises:
            Cancelled: The job was stopped.
            JobTimeout: Its deadline has passed.
        """
        self._base_steps = total
        self._report(done, preview)

    def refiner_step(self, done: int, total: int, *, preview: str | None = None) -> None:
        """Reports a step of the refiner pass. Raises as `base_step` does."""
        self._refiner_steps = total
        self._report(self._base_steps + done, preview)

    def finish_batch(self) -> None:
        """Counts a batch as done."""
        self._batches_done += 1

    def set_remaining(self, batches: int) -> None:
        """Sets the number of batches still to run, after one was split."""
        self._batches = self._batches_done + batches

    def _report(self, done: int, preview: str | None) -> None:
        per_batch = self._base_steps + self._refiner_steps
        self._run.step(self._batches_done * per_batch + done, self._batches * per_batch, preview=preview)
