"""Accelerations that change the image: opt-in, applied for one job, and reported in its metadata."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from handlers.sdxl.acceleration_names import BRANCHES, deep_cache_name
from handlers.sdxl.features.deep_cache import deep_cached
from handlers.sdxl.job_pipeline import JobPipeline
from handlers.sdxl.request import SdxlRequest
from shared.errors import Conflict, ValidationError
from shared.weights.addons import AddonLibrary

_DISTILLED_SCHEDULERS = ("lcm", "tcd")
_MIN_STEPS = 10


def check(request: SdxlRequest, addons: AddonLibrary) -> None:
    """Refuses the few steps of distilled models, which differ too much from each other to share features.

    Raises:
        ValidationError: The request has a scheduler for such models, or fewer than ten steps.
    """
    if request.scheduler in _DISTILLED_SCHEDULERS:
        other = f'config.scheduler: "{request.scheduler}"'
    elif request.steps < _MIN_STEPS:
        other = f"config.steps: {request.steps}"
    else:
        return
    raise ValidationError([Conflict.between(f'config.acceleration: "{request.acceleration}"', other, field="config.acceleration")])


@contextmanager
def apply(job: JobPipeline, request: SdxlRequest) -> Iterator[None]:
    """Makes the UNet, and the refiner's, reuse inner features between the steps of a batch."""
    name = deep_cache_name(request.acceleration)
    assert name is not None
    job.step_cache = partial(deep_cached, branch=BRANCHES[name])
    job.accelerations.append(name)
    yield
