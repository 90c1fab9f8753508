"""Measures the overhead that a handler adds to a bare pipeline call: `make bench`.

For each handler, the same job is run alternately in two ways, in one process and on one thread: as a bare call of the loaded recipe, and as
a complete job with validation, encoding, storage on local disk and the payload. The overhead is the job's time outside `generate`, also
printed as a share of the bare call. With the small models used here that share is much larger than with real ones, whose calls take
seconds; the absolute overhead is the same.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.local_worker import bench_run, local_worker
from handlers import HANDLERS
from shared.jobs.lifecycle import Completed, Job, Worker, run_job
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
    """

    bare: list[float]
    job: list[float]
    generate: list[float]

    @property
    def overhead(self) -> float:
        """Median seconds of a job outside `generate`."""
        return statistics.median(job - generate for job, generate in zip(self.job, self.generate, strict=True))


def main() -> None:
    """Prints a table. The first argument is the MODELS_DIR."""
    prepare_environment()
    configure_logging("ERROR")
    print(f"{'handler':<9}{'bare call':>12}{'full job':>12}{'overhead':>12}{'share of bare':>15}")
    for handler in HANDLERS:
        measured = measure_overhead(handler, Path(sys.argv[1]))
        bare, job = statistics.median(measured.bare), statistics.median(measured.job)
        print(f"{handler:<9}{bare * 1e3:9.1f} ms{job * 1e3:9.1f} ms{measured.overhead * 1e3:9.1f} ms{measured.overhead / bare:14.1%}")


def measure_overhead(handler: str, models: Path) -> Measurements:
    """Measures the job of a handler's `test_input.json`.

    Args:
        handler: The handler.
        models: The MODELS_DIR.
    """
    job = Job("bench", json.loads((ROOT / "handlers" / handler / "test_input.json").read_text())["input"])
    with tempfile.TemporaryDirectory() as folder, local_worker(handler, models, Path(folder)) as worker:
        measured = Measurements([], [], [])
        for number in range(ROUNDS + 1):
            bare, (seconds, generate) = _call_recipe(job, worker), _run_job(job, worker)
            if number == 0:
                continue  # the first round warms up
            measured.bare.append(bare)
            measured.job.append(seconds)
            measured.generate.append(generate)
        return measured


def _call_recipe(job: Job, worker: Worker[Any]) -> float:
    request = worker.request.parse(job.input, job_id=job.id)
    started = time.perf_counter()
    worker.gpu.submit(lambda: list(worker.recipe.generate(request, {}, bench_run()))).result()
    return time.perf_counter() - started


def _run_job(job: Job, worker: Worker[Any]) -> tuple[float, float]:
    started = time.perf_counter()
    end = asyncio.run(run_job(job, worker, bench_run()))
    seconds = time.perf_counter() - started
    if not isinstance(end, Completed):
        raise SystemExit(f"the job did not complete: {end.payload.error_message}")
    return seconds, float(end.payload.metadata.timings["generate"])


if __name__ == "__main__":
    main()
