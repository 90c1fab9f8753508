"""Counts what a job asks of a CUDA device, without one: operations, waits and memory of unchanged recipes (`benchmarks.fake_cuda`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any, TypeVar

import torch
from PIL import Image

from benchmarks.fake_cuda import Counts, FakeCuda
from shared.contract.request import Request
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.recipe import JobRun, Output, Recipe, VideoOutput

DEVICE = torch.device("cuda:0")
"""The fake device."""

RequestT = TypeVar("RequestT", bound=Request)

PREPARE, DENOISE, DECODE = "prepare", "denoise", "decode"
"""The phases of a job: everything before the first call of a denoiser; from there to the last step; the rest."""


@dataclass(frozen=True)
class JobCounts:
    """What one job asked of the device.

    Attributes:
        counts: By phase.
        resident: Bytes on the device before the job.
        peaks: The most bytes in each phase.
        waits_by_step: Waits since the step before, for each step; the first one's begin with the first call of a denoiser.
        outputs: How many images or clips were generated.
        warnings: For the caller.
    """

    counts: Counts
    resident: int
    peaks: Mapping[str, int]
    waits_by_step: tuple[int, ...]
    outputs: int
    warnings: tuple[str, ...]

    def needed(self, phase: str) -> int:
        """Returns the bytes that a phase needed in addition to what was resident."""
        return self.peaks.get(phase, self.resident) - self.resident


def count_job(
    card: FakeCuda,
    recipe: Recipe[Any],
    request: Any,
    denoisers: Iterable[Any],
    references: Mapping[str, Image.Image] | None = None,
) -> JobCounts:
    """Runs one job.

    Args:
        card: The device, entered, with the recipe's networks on it.
        recipe: The recipe.
        request: The job.
        denoisers: The networks whose first call begins the denoising.
        references: The downloaded images.
    """
    steps, marks = [], []

    def report(done: int, total: int, *, text: str | None = None, preview: str | None = None) -> None:
        steps.append(done)
        marks.append(card.counts.waits_in(DENOISE))
        if done == total:
            card.phase = DECODE

    run = JobRun("counted", CancelToken(3600), report)
    recipe.check(request)
    card.reset(PREPARE)
    resident = card.memory.allocated
    with _phase_begins(card, denoisers):
        outputs = sum(1 for output in recipe.generate(request, references or {}, run) if _consume(output))
    waits = tuple(after - before for before, after in zip([0, *marks], marks, strict=False))
    return JobCounts(card.counts, resident, dict(card.memory.peaks), waits, outputs, tuple(run.warnings))


def request_for(kind: type[RequestT], job_type: str, prompt: str, config: Mapping[str, Any]) -> RequestT:
    """Returns the request of a job to count, with a seed."""
    raw = {"id": "j", "user_id": "u", "type": job_type, "prompt": prompt, "config": {"seed": 1, **config}}
    return kind.parse(raw, job_id="counted")


def flops_of(card: FakeCuda, call: Callable[[], object]) -> int:
    """Returns the floating-point operations of one call."""
    card.reset("alone")
    with torch.inference_mode():
        call()
    return card.counts.flops_in("alone")


@contextmanager
def _phase_begins(card: FakeCuda, denoisers: Iterable[Any]) -> Iterator[None]:
    def begin(*_: Any) -> None:
        card.phase = DENOISE

    hooks = [network.register_forward_pre_hook(begin) for network in denoisers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _consume(output: Output) -> bool:
    """Reads a video's frames on another thread, as encoding does: they are generated after their video was yielded."""
    if isinstance(output, VideoOutput):
        Thread(target=lambda: [None for _ in output.frames], daemon=True).start()
    return True
