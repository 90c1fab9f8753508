"""What a handler adds to a bare pipeline call: `make bench`.

For each handler the same job is done in two ways in turn, in one process on one thread: as a call of the loaded recipe, and as a whole job
with validation, encoding, storage on local disk and the payload. Printed is the job's time outside `generate`, as a share of the bare call.
The models are the small ones, so the share is far larger here than on a real model, whose call takes seconds; the milliseconds stay.
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

from benchmarks.local_worker import local_worker, bench_run
from shared.jobs.lifecycle import Completed, Job, Worker, run_job
from shared.settings import prepare_environment
from shared.telemetry import configure_logging

ROOT = Path(__file__).parents[1]
HANDLERS = ("sdxl", "wan", "chat")
ROUNDS = 15


@dataclass(frozen=True)
class Measured:
    """Seconds, one value per round.

    Attributes:
        bare: A call of the recipe, nothing else.
        whole: A whole job.
        generate: The part of the whole job that is the call of the recipe.
    """

    bare: list[float]
    whole: list[float]
    generate: list[float]

    @property
    def overhead(self) -> float:
        """Median seconds of a job outside `generate`."""
        return statistics.median(whole - generate for whole, generate in zip(self.whole, self.generate, strict=True))


def main() -> None:
    """Prints a table. The first argument is the folder with the small models."""
    prepare_environment()
    configure_logging("ERROR")
    print(f"{'handler':<9}{'bare call':>12}{'whole job':>12}{'overhead':>12}{'share of bare':>15}")
    for handler in HANDLERS:
        measured = _measure(handler, Path(sys.argv[1]))
        bare, whole = statistics.median(measured.bare), statistics.median(measured.whole)
        print(f"{handler:<9}{bare * 1e3:9.1f} ms{whole * 1e3:9.1f} ms{measured.overhead * 1e3:9.1f} ms{measured.overhead / bare:14.1%}")


def _measure(handler: str, models: Path) -> Measured:
    job = Job("bench", json.loads((ROOT / "handlers" / handler / "test_input.json").read_text())["input"])
    with tempfile.TemporaryDirectory() as folder, local_worker(handler, models, Path(folder)) as worker:
        measured = Measured([], [], [])
        for number in range(ROUNDS + 1):
            bare, (whole, generate) = _call(job, worker), _do(job, worker)
            if number == 0:
                continue  # the first of each warms up
            measured.bare.append(bare)
            measured.whole.append(whole)
            measured.generate.append(generate)
        return measured


def _call(job: Job, worker: Worker[Any]) -> float:
    request = worker.request.parse(job.input, job_id=job.id)
    started = time.perf_counter()
    worker.gpu.submit(lambda: list(worker.recipe.generate(request, {}, bench_run()))).result()
    return time.perf_counter() - started


def _do(job: Job, worker: Worker[Any]) -> tuple[float, float]:
    started = time.perf_counter()
    end = asyncio.run(run_job(job, worker, bench_run()))
    seconds = time.perf_counter() - started
    if not isinstance(end, Completed):
        raise SystemExit(f"the job did not complete: {end.payload.error_message}")
    return seconds, float(end.payload.metadata.timings["generate"])


if __name__ == "__main__":
    main()
