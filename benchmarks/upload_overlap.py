"""Measures how much of encoding and uploading runs at the same time: `python -m benchmarks.upload_overlap`.

A job of six images of 1024 × 1024 whose generation takes no time, on a link of limited throughput: ten times slower than the encoder, and
three times faster. The job is compared with the longer of both parts alone, which it cannot be faster than.
"""

from __future__ import annotations

import asyncio
import json
import math
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.encoding import IMAGES, SIZE, decoder_output
from benchmarks.local_worker import bench_run, local_worker
from handlers.sdxl.request import SdxlRequest
from shared.jobs.lifecycle import Completed, Job, Worker, run_job
from shared.jobs.recipe import ImageOutput, JobRun, Output, Summary
from shared.models.pixels import decoded_to_pixels
from shared.settings import prepare_environment
from shared.storage.local_disk import LocalDisk
from shared.storage.protocol import StoredObject
from shared.telemetry import configure_logging

SLOWER, FASTER = 10.0, 1 / 3
"""Seconds of all uploads, as multiples of the seconds that encoding takes."""


@dataclass(frozen=True)
class Overlap:
    """Medians over the rounds.

    Attributes:
        encoding: Seconds of a job whose uploads take no time.
        uploading: Seconds that its files take on the link.
        job: Seconds of the job on that link.
        ratio: Of the job to the longer of both.
    """

    encoding: float
    uploading: float
    job: float
    ratio: float


class Link(LocalDisk):
    """Local disk behind a link that carries one file at a time.

    Attributes:
        bytes_per_second: Its throughput.
        carried: The bytes so far.
    """

    keeps_callbacks = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.bytes_per_second = math.inf
        self.carried = 0
        self._free = threading.Lock()

    def put(self, key: str, content: bytes | Path, content_type: str, *, seconds: float = math.inf) -> StoredObject:
        """Stores an object after the time that it takes on the link."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        with self._free:
            self.carried += size
            time.sleep(size / self.bytes_per_second)
        return super().put(key, content, content_type, seconds=seconds)


class ReadyImages:
    """A recipe whose images are ready."""

    def __init__(self) -> None:
        decoded = torch.cat([decoder_output(SIZE, SIZE, seed, shift=seed / IMAGES) for seed in range(IMAGES)])
        self._pixels = decoded_to_pixels(decoded)

    def check(self, request: SdxlRequest) -> None:
        """Serves every request."""

    def generate(self, request: SdxlRequest, references: Mapping[str, Image.Image], run: JobRun) -> Generator[Output]:
        """Yields the images."""
        for pixels, seed in zip(self._pixels, request.seeds, strict=True):
            yield ImageOutput(pixels, seed, request.output_format, {"steps": 1, "batch_size": IMAGES})

    def summarize(self, request: SdxlRequest, outputs: Sequence[Output]) -> Summary:
        """Reports nothing."""
        return Summary({"model_used": "ready"})


def main() -> int:
    """Prints a line of JSON for each link. The first argument is the number of rounds (default 5)."""
    prepare_environment()
    configure_logging("ERROR")
    for share, overlap in measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5).items():
        print(json.dumps({"uploads": share, **asdict(overlap)}))
    return 0


def measure(rounds: int) -> dict[str, Overlap]:
    """Measures a link that is slower than the encoder, and one that is faster."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        link = Link(Path(folder))
        with local_worker("sdxl", Path(folder), Path(folder), ReadyImages(), storage=link) as worker:
            _run_job(worker)  # warms up
            link.carried = 0
            _run_job(worker)
            size = link.carried
            return {name: _measure(worker, link, size, share, rounds) for name, share in (("slower", SLOWER), ("faster", FASTER))}


def _measure(worker: Worker[Any], link: Link, size: int, share: float, rounds: int) -> Overlap:
    """Alternates jobs on an infinitely fast link and on one whose uploads take `share` times as long as encoding just took."""
    measured = []
    for _ in range(rounds):
        link.bytes_per_second = math.inf
        encoding = _run_job(worker)
        uploading = encoding * share
        link.bytes_per_second = size / uploading
        measured.append((encoding, uploading, _run_job(worker)))
    ratio = statistics.median(job / max(encoding, uploading) for encoding, uploading, job in measured)
    encoding, uploading, job = (statistics.median(seconds) for seconds in zip(*measured, strict=True))
    return Overlap(encoding, uploading, job, ratio)


def _run_job(worker: Worker[Any]) -> float:
    fields = {"id": "bench", "user_id": "bench", "type": "sdxl_image_fast", "prompt": "a heron"}
    job = Job("bench", {**fields, "config": {"num_images": IMAGES, "output_format": "png"}})
    started = time.perf_counter()
    end = asyncio.run(run_job(job, worker, bench_run()))
    if not isinstance(end, Completed):
        raise SystemExit(f"the job did not complete: {end.payload.error_message}")
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
