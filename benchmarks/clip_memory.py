"""How much host memory a clip takes on its way: `python -m benchmarks.clip_memory MODELS`.

The same job, from denoising to storage, is done for a short clip and for a long one at the full size, each in a process of its own whose
peak is read from the kernel. What the networks work with does not depend on the number of frames, since the VAE decodes four at a time, and
on a worker it is the GPU's memory; so the difference of both peaks is what the long clip itself took. The allocator gives back at once what
is freed: else its reserve, which depends on what the networks did on the CPU and when, would be most of the difference. Beside it, the same
clip as diffusers returns it, all frames at once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.local_worker import bench_run, local_worker
from shared.jobs.lifecycle import Completed, Job, run_job
from shared.settings import prepare_environment
from shared.telemetry import configure_logging

WIDTH, HEIGHT = 480, 832
SHORT, LONG = 9, 81

_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**17), "MALLOC_TRIM_THRESHOLD_": str(2**17), "MALLOC_ARENA_MAX": "1"}


def raw(frames: int) -> int:
    """Bytes of a clip as frames of 8 bits."""
    return frames * WIDTH * HEIGHT * 3


def measure(models: Path, way: str, frames: int) -> int:
    """The peak of a process that makes one clip, above what it had before, in bytes.

    Args:
        models: A folder that serves as MODELS_DIR.
        way: `job` for the worker's, `plain` for a call of diffusers.
        frames: How many.
    """
    command = [sys.executable, "-m", "benchmarks.clip_memory", str(models), "--way", way, "--frames", str(frames)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | _ALLOCATOR)
    return int(done.stdout.split()[-1])


def report(models: Path) -> str:
    """All figures, as text."""
    megabytes = {(way, frames): measure(models, way, frames) / 1e6 for way in ("job", "plain") for frames in (SHORT, LONG)}
    lines = [f"{LONG} frames of {WIDTH} × {HEIGHT} are {raw(LONG) / 1e6:.0f} MB. Peak of host memory, and what the long clip adds:"]
    for way, name in (("job", "a job, stored as a file"), ("plain", "diffusers, frames in memory")):
        short, long = megabytes[way, SHORT], megabytes[way, LONG]
        lines.append(f"  {name}: {short:.0f} MB and {long:.0f} MB, {long - short:+.0f} MB: {(long - short) / (raw(LONG) / 1e6):.2f} clips")
    return "\n".join(lines)


Make = Callable[[int, int, int], None]
"""Makes one clip of a width, a height and a number of frames."""


@contextmanager
def _job(models: Path) -> Iterator[Make]:
    with tempfile.TemporaryDirectory() as folder, local_worker("wan", models, Path(folder)) as worker:

        def make(width: int, height: int, frames: int) -> None:
            config = {"width": width, "height": height, "frames": frames, "steps": 1, "guidance_scale": 1.0, "seed": 1}
            request = {"id": "clip", "user_id": "bench", "type": "video_fast", "prompt": "a red circle", "config": config}
            ended = asyncio.run(run_job(Job("clip", request), worker, bench_run()))
            assert isinstance(ended, Completed), ended.payload.error_message

        yield make


@contextmanager
def _plain(models: Path) -> Iterator[Make]:
    import torch

    from handlers.wan.weights.load import load_wan

    pipeline: Any = load_wan(models / "wan", torch.device("cpu"), torch.float32).text_to_video

    def make(width: int, height: int, frames: int) -> None:
        pipeline("a red circle", width=width, height=height, num_frames=frames, num_inference_steps=1, guidance_scale=1.0)

    yield make


def _peak(make: Make, frames: int) -> int:
    make(64, 64, SHORT)  # what is loaded and allocated once
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _status("VmRSS")
    make(WIDTH, HEIGHT, frames)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    """One of the kernel's figures about this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clip_memory", description=__doc__)
    parser.add_argument("models", type=Path, metavar="MODELS")
    parser.add_argument("--way", choices=("job", "plain"), help="one measurement alone, in this process")
    parser.add_argument("--frames", type=int, default=LONG)
    options = parser.parse_args(arguments)
    if options.way is None:
        print(report(options.models))
        return 0
    prepare_environment()
    configure_logging("ERROR")
    with (_job if options.way == "job" else _plain)(options.models) as make:
        print(_peak(make, options.frames))
    return 0


if __name__ == "__main__":
    sys.exit(main())
