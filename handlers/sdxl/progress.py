"""How far a job is, over all its calls of pipelines."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from handlers.sdxl.previews import EVERY
from shared.jobs.recipe import Run


class Steps:
    """Counts the steps of several batches, each with two parts where a refiner finishes it, as those of one job.

    Args:
        run: Whom to report to.
        batches: How many batches there are.
        refined: How many steps the refiner makes of each.
        show: Makes a preview of latents, where somebody wants to look on.
    """

    def __init__(self, run: Run, batches: int, refined: int = 0, show: Callable[[Tensor], str] | None = None) -> None:
        self._run = run
        self._batches = batches
        self._refined = refined
        self._show = show
        self._looked = 0
        self._done = 0  # batches
        self._base = 0  # steps of a batch before the refiner's

    @property
    def look(self) -> Callable[[Tensor], str | None] | None:
        """What draws the latents now and then, where somebody wants to look on."""
        return None if self._show is None else self._look

    def base(self, done: int, total: int, *, preview: str | None = None) -> None:
        """Reports a step of the first part.

        Raises:
            Cancelled: The job was stopped.
            JobTimeout: Its deadline has passed.
        """
        self._base = total
        self._report(done, preview)

    def refine(self, done: int, total: int, *, preview: str | None = None) -> None:
        """Reports a step of the refiner. Raises as `base` does."""
        self._refined = total
        self._report(self._base + done, preview)

    def end_batch(self) -> None:
        """Counts a batch as done."""
        self._done += 1

    def expect(self, batches: int) -> None:
        """Says how many batches are still to be made, because one of them did not fit into memory."""
        self._batches = self._done + batches

    def _look(self, latents: Tensor) -> str | None:
        self._looked += 1
        return self._show(latents) if self._show is not None and self._looked % EVERY == 0 else None

    def _report(self, done: int, preview: str | None) -> None:
        each = self._base + self._refined
        self._run.step(self._done * each + done, self._batches * each, preview=preview)
