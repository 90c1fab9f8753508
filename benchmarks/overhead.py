"""Measures the overhead that a handler adds to a bare pipeline call: `make bench`.

For each handler, the same job is run alternately in two ways, in one process and on one thread: as a bare call of the loaded recipe, and as
a complete job with validation, encoding, storage on local disk and the payload. The overhead is the job's time outside `generate`, also
printed as a share of the bare call. With the small models used here that share is much larger than with real ones, whose calls take
seconds; the absolute overhead is the same. The latency is its part before the recipe is called: what a job waits on an idle worker after
the SDK has handed it over.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.local_worker import bench_run, local_worker
from handlers import HANDLERS
from shared.jobs.lifecycle import Completed, Job, Worker, run_job
from shared.jobs.recipe import JobRun, Output, Recipe, Summary
from shared.settings import prepare_environment
from shared.telemetry import configure_logging

ROOT = Path(__file__).parents[1]
ROUNDS = 9


@dataclass(frozen=True)
class Measurements:
    """Seconds, one value per round.

    Attributes:
        bare: A bare call of the recipe.
        job: A complete job.
        generate: The part of the complete job that is the call of the recipe.
        latency: The part of it before that.
    """

    bare: list[float]
    job: list[float]
    generate: list[float]
    latency: list[float]

    @property
    def overhead(self) -> float:
        """Median seconds of a job outside `generate`."""
        return statistics.median(job - generate for job, generate in zip(self.job, self.generate, strict=True))


class _Observed:
    """A recipe that notes when it is called to generate.

    Args:
        recipe: The recipe.
    """

    def __init__(self, recipe: Recipe[Any]) -> None:
        self._recipe = recipe
        self.called = 0.0

    def check(self, request: Any) -> None:
        """Leaves it to the recipe."""
        self._recipe.check(request)

    def generate(self, request: Any, references: Mapping[str, Image.Image], run: JobRun) -> Generator[Output]:
        """Notes the time, and leaves it to the recipe."""
        self.called = time.perf_counter()
        yield from self._recipe.generate(request, references, run)

    def summarize(self, request: Any, outputs: Sequence[Output]) -> Summary:
        """Leaves it to the recipe."""
        return self._recipe.summarize(request, outputs)


def main() -> None:
    """Prints a table. The first argument is the MODELS_DIR."""
    prepare_environment()
    configure_logging("ERROR")
    print(f"{'handler':<9}{'bare call':>12}{'full job':>12}{'overhead':>12}{'share of bare':>15}{'latency':>12}")
    for handler in HANDLERS:
        measured = measure_overhead(handler, Path(sys.argv[1]))
        bare, job = statistics.median(measured.bare), statistics.median(measured.job)
        latency = statistics.median(measured.latency)
        times = "".join(f"{seconds * 1e3:9.1f} ms" for seconds in (bare, job, measured.overhead))
        print(f"{handler:<9}{times}{measured.overhead / bare:15.1%}{latency * 1e3:9.1f} ms")


def measure_overhead(handler: str, models: Path) -> Measurements:
    """Measures the job of a handler's `test_input.json`.

    Args:
        handler: The handler.
        models: The MODELS_DIR.
    """
    job = Job("bench", json.loads((ROOT / "handlers" / handler / "test_input.json").read_text())["input"])
    with tempfile.TemporaryDirectory() as folder, local_worker(handler, models, Path(folder)) as worker:
        measured = Measurements([], [], [], [])
        for number in range(ROUNDS + 1):
            bare, (seconds, generate, latency) = _call_recipe(job, worker), _run_job(job, worker)
            if number == 0:
                continue  # the first round warms up
            measured.bare.append(bare)
            measured.job.append(seconds)
            measured.generate.append(generate)
            measured.latency.append(latency)
        return measured


def _call_recipe(job: Job, worker: Worker[Any]) -> float:
    request = worker.request.parse(job.input, job_id=job.id)
    started = time.perf_counter()
    worker.gpu.submit(lambda: list(worker.recipe.generate(request, {}, bench_run()))).result()
    return time.perf_counter() - started


def _run_job(job: Job, worker: Worker[Any]) -> tuple[float, float, float]:
    observed = _Observed(worker.recipe)
    observing = replace(worker, recipe=observed)
    started = time.perf_counter()
    end = asyncio.run(run_job(job, observing, bench_run()))
    seconds = time.perf_counter() - started
    if not isinstance(end, Completed):
        raise SystemExit(f"the job did not complete: {end.payload.error_message}")
    return seconds, float(end.payload.metadata.timings["generate"]), observed.called - started


if __name__ == "__main__":
    main()
