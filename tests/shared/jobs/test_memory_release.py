"""What a job had is free as soon as it has ended, however it ended: the next one needs the memory, and the collector comes much later."""

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
from tests.shared.jobs.conftest import Workers, job, picture, run

pytestmark = pytest.mark.usefixtures("no_collector", "as_on_a_worker")


class Latents:
    """Stands for tensors on the GPU."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def as_on_a_worker() -> Iterator[None]:
    """At DEBUG an error is shown with what its frames hold, and so they keep it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    yield
    structlog.reset_defaults()


class Making:
    """Makes a picture from latents, and then meets something."""

    def __init__(self, meet: Callable[[JobRun], object] = lambda run: None) -> None:
        self.meet = meet
        self.held: list[weakref.ref[Latents]] = []

    def __call__(self, request: SdxlRequest, run: JobRun) -> Generator[Output]:
        latents = Latents()
        self.held.append(weakref.ref(latents))
        yield picture()
        self.meet(run)

    @property
    def is_free(self) -> bool:
        return [each() for each in self.held] == [None]


def test_completed_job_releases_its_tensors(worker: Workers) -> None:
    making = Making()
    assert isinstance(asyncio.run(run_job(job(), worker(making), run())), Completed)
    assert making.is_free


def unusable(_run: JobRun) -> None:
    raise GenerationError("The picture is black.")


def unexpected(_run: JobRun) -> None:
    raise RuntimeError("unexpected")


def caused(_run: JobRun) -> None:
    try:
        raise MemoryError
    except MemoryError as error:
        raise OutOfMemory("Memory did not suffice.") from error


@pytest.mark.parametrize("meet", [unusable, unexpected, caused], ids=["unusable", "unexpected", "with a cause"])
def test_failed_job_releases_its_tensors(meet: Callable[[JobRun], object], worker: Workers) -> None:
    making = Making(meet)
    end = asyncio.run(run_job(job(), worker(making), run()))
    assert isinstance(end, Failed)
    assert making.is_free


def test_cancelled_job_releases_its_tensors(worker: Workers) -> None:
    begun = threading.Event()

    def meet(run: JobRun) -> None:
        begun.set()
        while True:
            run.cancel.check()

    making = Making(meet)

    async def stop() -> Outcome:
        work = asyncio.ensure_future(run_job(job(), worker(making), run()))
        await asyncio.to_thread(begun.wait)
        work.cancel()
        return await work

    assert isinstance(asyncio.run(stop()), Stopped)
    assert making.is_free
