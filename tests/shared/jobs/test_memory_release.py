"""A job releases its tensors when it ends, whatever its outcome and without the garbage collector: the next job needs the memory."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Generator, Iterator

import pytest
import structlog

from handlers.sdxl.request import SdxlRequest
from shared.errors import GenerationError, OutOfMemory
from shared.jobs.lifecycle import Completed, Failed, Outcome, Stopped, run_job
from shared.jobs.recipe import JobRun, Output
from tests.shared.jobs.conftest import MakeWorker, image_output, job, run

pytestmark = pytest.mark.usefixtures("no_garbage_collection", "production_logging")


class Latents:
    """Stands in for tensors on the GPU."""


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def production_logging() -> Iterator[None]:
    """At DEBUG structlog renders the local variables of every frame, and keeps them alive."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    yield
    structlog.reset_defaults()


class HoldsLatents:
    """A script that holds latents while it yields an image, and then runs `then`."""

    def __init__(self, then: Callable[[JobRun], object] = lambda run: None) -> None:
        self._then = then
        self._latents: list[weakref.ref[Latents]] = []

    def __call__(self, request: SdxlRequest, run: JobRun) -> Generator[Output]:
        latents = Latents()
        self._latents.append(weakref.ref(latents))
        yield image_output()
        self._then(run)

    @property
    def is_released(self) -> bool:
        return [reference() for reference in self._latents] == [None]


def test_completed_job_releases_its_tensors(make_worker: MakeWorker) -> None:
    script = HoldsLatents()
    assert isinstance(asyncio.run(run_job(job(), make_worker(script), run())), Completed)
    assert script.is_released


def unusable(_run: JobRun) -> None:
    raise GenerationError("The image is black.")


def unexpected(_run: JobRun) -> None:
    raise RuntimeError("unexpected")


def chained(_run: JobRun) -> None:
    try:
        raise MemoryError
    except MemoryError as error:
        raise OutOfMemory("Memory did not suffice.") from error


@pytest.mark.parametrize("fail", [unusable, unexpected, chained])
def test_failed_job_releases_its_tensors(fail: Callable[[JobRun], object], make_worker: MakeWorker) -> None:
    script = HoldsLatents(fail)
    outcome = asyncio.run(run_job(job(), make_worker(script), run()))
    assert isinstance(outcome, Failed)
    assert script.is_released


def test_cancelled_job_releases_its_tensors(make_worker: MakeWorker) -> None:
    started = threading.Event()

    def run_until_cancelled(run: JobRun) -> None:
        started.set()
        while True:
            run.cancel.check()

    script = HoldsLatents(run_until_cancelled)

    async def cancel() -> Outcome:
        work = asyncio.ensure_future(run_job(job(), make_worker(script), run()))
        await asyncio.to_thread(started.wait)
        work.cancel()
        return await work

    assert isinstance(asyncio.run(cancel()), Stopped)
    assert script.is_released
