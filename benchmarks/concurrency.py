"""What it gains to have several jobs in hand where storage is slow: `make bench-load`.

The same jobs are done one at a time and four at a time, in turn, in one process on one thread of the GPU's; each upload takes as long as a
job's own work. One at a time the GPU waits for every upload; four at a time it should never wait. The models are the small ones: the
seconds say nothing of a real GPU, the ratio does, for uploads that take as large a part of a job there.
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

from benchmarks.local_worker import local_worker, bench_run
from shared.jobs.lifecycle import Completed, Job, Worker, run_job
from shared.settings import prepare_environment
from shared.storage.local_disk import LocalDisk
from shared.storage.protocol import StoredObject
from shared.telemetry import configure_logging

ROOT = Path(__file__).parents[1]
HANDLERS = ("sdxl", "wan")
AT_ONCE = 4
JOBS = 8
SMALL = {"sdxl": {"num_images": 1, "resolution": "64x64", "steps": 10}, "wan": {"width": 64, "height": 64, "frames": 5, "steps": 4}}


@dataclass
class SlowDisk(LocalDisk):
    """Local disk that takes its time for each file.

    Attributes:
        seconds: So much.
    """

    folder: Path
    seconds: float = 0.0
    keeps_callbacks = False

    def __post_init__(self) -> None:
        super().__init__(self.folder)

    def put(self, key: str, content: bytes | Path, content_type: str, *, seconds: float = math.inf) -> StoredObject:
        """Stores an object, late."""
        time.sleep(self.seconds)
        return super().put(key, content, content_type, seconds=seconds)


def main() -> None:
    """Prints a table. The first argument is the folder with the small models, the second how often each is measured (3)."""
    prepare_environment()
    configure_logging("ERROR")
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    print(f"{'handler':<9}{'each upload':>13}{'one at a time':>16}{f'{AT_ONCE} at a time':>14}{'ratio':>9}{'GPU busy':>11}")
    for handler in HANDLERS:
        with tempfile.TemporaryDirectory() as folder:
            _measure(handler, Path(sys.argv[1]), SlowDisk(Path(folder)), rounds)


def _measure(handler: str, models: Path, disk: SlowDisk, rounds: int) -> None:
    fields = {**json.loads((ROOT / "handlers" / handler / "test_input.json").read_text())["input"], "config": SMALL[handler]}
    with local_worker(handler, models, disk.folder, storage=disk) as worker:
        _do(fields, worker, at_once=1)  # warms up
        _, made = _do(fields, worker, at_once=1)
        disk.seconds = made / JOBS / 2  # a job has two files, the result and its thumbnail
        seconds = [(_do(fields, worker, at_once=1), _do(fields, worker, at_once=AT_ONCE)) for _ in range(rounds)]
    alone, together = (statistics.median(each[which][0] for each in seconds) for which in (0, 1))
    ratio = statistics.median(one / four for (one, _), (four, _) in seconds)
    busy = statistics.median(made / four for _, (four, made) in seconds)
    rates = f"{JOBS / alone:10.2f} jobs/s{JOBS / together:7.2f} jobs/s"
    print(f"{handler:<9}{disk.seconds * 1e3:10.0f} ms{rates}{ratio:8.2f}x{busy:10.0%}")


def _do(fields: dict[str, Any], worker: Worker[Any], *, at_once: int) -> tuple[float, float]:
    """Seconds for all jobs, and for the recipe's part in them."""

    async def all_of_them() -> list[float]:
        places = asyncio.Semaphore(at_once)

        async def do(number: int) -> float:
            async with places:
                end = await run_job(Job(f"bench-{number}", {**fields, "id": f"bench-{number}"}), worker, bench_run())
            if not isinstance(end, Completed):
                raise SystemExit(f"a job did not complete: {end.payload.error_message}")
            return float(end.payload.metadata.timings["generate"])

        return await asyncio.gather(*(do(number) for number in range(JOBS)))

    started = time.perf_counter()
    made = asyncio.run(all_of_them())
    return time.perf_counter() - started, sum(made)


if __name__ == "__main__":
    main()
