"""Measures the throughput gained by concurrent jobs when storage is slow: `make bench-load`.

The same jobs are run alternately with one and with four in flight, in one process with one GPU thread; a job's uploads are slowed down to
take as long as its generation. With one job in flight the GPU idles during every upload; with four it should never idle. The small models
make the absolute times meaningless for a real GPU, but the ratio carries over to jobs whose uploads take the same share.
"""

from __future__ import annotations

import asyncio
import json
import math
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.local_worker import bench_run, local_worker
from shared.jobs.lifecycle import Completed, Job, Worker, run_job
from shared.settings import prepare_environment
from shared.storage.local_disk import LocalDisk
from shared.storage.protocol import StoredObject
from shared.telemetry import configure_logging

ROOT = Path(__file__).parents[1]
HANDLERS = ("sdxl", "wan")
CONCURRENCY = 4
JOBS = 8
SMALL = {"sdxl": {"num_images": 1, "resolution": "64x64", "steps": 10}, "wan": {"width": 64, "height": 64, "frames": 5, "steps": 4}}


@dataclass
class SlowDisk(LocalDisk):
    """Local disk with a fixed latency per file.

    Attributes:
        seconds: The latency.
    """

    folder: Path
    seconds: float = 0.0
    keeps_callbacks = False

    def __post_init__(self) -> None:
        super().__init__(self.folder)

    def put(self, key: str, content: bytes | Path, content_type: str, *, seconds: float = math.inf) -> StoredObject:
        """Stores an object after the latency."""
        time.sleep(self.seconds)
        return super().put(key, content, content_type, seconds=seconds)


@dataclass(frozen=True)
class Measurements:
    """Medians over the rounds, in seconds for all jobs.

    Attributes:
        upload: The latency of a file.
        sequential: With one job in flight.
        concurrent: With four.
        ratio: Of the two.
        busy: The share of the time in which the GPU thread worked, with four.
    """

    upload: float
    sequential: float
    concurrent: float
    ratio: float
    busy: float


def main() -> None:
    """Prints a table. The first argument is the MODELS_DIR, the second the number of rounds (default 3)."""
    prepare_environment()
    configure_logging("ERROR")
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    print(f"{'handler':<9}{'each upload':>13}{'one at a time':>16}{f'{CONCURRENCY} at a time':>14}{'ratio':>9}{'GPU busy':>11}")
    for handler in HANDLERS:
        measured = measure_concurrency(handler, Path(sys.argv[1]), rounds)
        rates = f"{JOBS / measured.sequential:10.2f} jobs/s{JOBS / measured.concurrent:7.2f} jobs/s"
        print(f"{handler:<9}{measured.upload * 1e3:10.0f} ms{rates}{measured.ratio:8.2f}x{measured.busy:10.0%}")


def measure_concurrency(handler: str, models: Path, rounds: int) -> Measurements:
    """Measures a small job of a handler.

    Args:
        handler: The handler.
        models: The MODELS_DIR.
        rounds: How often both ways are measured.
    """
    fields = {**json.loads((ROOT / "handlers" / handler / "test_input.json").read_text())["input"], "config": SMALL[handler]}
    with tempfile.TemporaryDirectory() as folder:
        disk = SlowDisk(Path(folder))
        with local_worker(handler, models, disk.folder, storage=disk) as worker:
            _run_jobs(fields, worker, concurrency=1)  # warms up
            _, generating = _run_jobs(fields, worker, concurrency=1)
            disk.seconds = generating / JOBS / 2  # a job uploads two files, the result and its thumbnail
            seconds = [
                (_run_jobs(fields, worker, concurrency=1), _run_jobs(fields, worker, concurrency=CONCURRENCY)) for _ in range(rounds)
            ]
    sequential, concurrent = (statistics.median(each[which][0] for each in seconds) for which in (0, 1))
    ratio = statistics.median(one / four for (one, _), (four, _) in seconds)
    busy = statistics.median(generating / four for _, (four, generating) in seconds)
    return Measurements(disk.seconds, sequential, concurrent, ratio, busy)


def _run_jobs(fields: dict[str, Any], worker: Worker[Any], *, concurrency: int) -> tuple[float, float]:
    """Returns the seconds for all jobs, and the seconds that they spent in `generate`."""

    async def run_all() -> list[float]:
        slots = asyncio.Semaphore(concurrency)

        async def run_one(number: int) -> float:
            async with slots:
                end = await run_job(Job(f"bench-{number}", {**fields, "id": f"bench-{number}"}), worker, bench_run())
            if not isinstance(end, Completed):
                raise SystemExit(f"a job did not complete: {end.payload.error_message}")
            return float(end.payload.metadata.timings["generate"])

        return await asyncio.gather(*(run_one(number) for number in range(JOBS)))

    started = time.perf_counter()
    generating = asyncio.run(run_all())
    return time.perf_counter() - started, sum(generating)


if __name__ == "__main__":
    main()
