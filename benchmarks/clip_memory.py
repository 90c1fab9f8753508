"""Measures the peak host memory of a long clip: `python -m benchmarks.clip_memory MODELS`.

The same job, from denoising to storage, runs for a short clip and for a long one of full size, each in a process of its own whose peak the
kernel reports. The networks' activations do not depend on the number of frames, since the VAE decodes four at a time (and on a worker they
are in GPU memory), so the difference of the peaks is the memory of the long clip. malloc is configured to return freed memory at once:
otherwise its reserve would dominate the difference. For comparison, diffusers returns all frames of the same clip at once.
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

SIZE = WIDTH, HEIGHT = 480, 832
SHORT, LONG = 9, 81

_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**17), "MALLOC_TRIM_THRESHOLD_": str(2**17), "MALLOC_ARENA_MAX": "1"}


def raw(frames: int, size: tuple[int, int] = SIZE) -> int:
    """Returns the bytes of a clip of 8-bit frames."""
    return frames * size[0] * size[1] * 3


def measure(models: Path, method: str, frames: int, size: tuple[int, int] = SIZE) -> int:
    """Returns the growth to the peak of a process that generates one clip, in bytes.

    Args:
        models: Used as MODELS_DIR.
        method: `job` for the worker's, `diffusers` for a direct call.
        frames: The length of the clip.
        size: Its width and height.
    """
    shape = ["--frames", str(frames), "--size", *map(str, size)]
    command = [sys.executable, "-m", "benchmarks.clip_memory", str(models), "--method", method, *shape]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | _ALLOCATOR)
    return int(result.stdout.split()[-1])


def report(models: Path) -> str:
    """Returns the results as text."""
    megabytes = {(method, frames): measure(models, method, frames) / 1e6 for method in ("job", "diffusers") for frames in (SHORT, LONG)}
    lines = [f"{LONG} frames of {WIDTH} × {HEIGHT} are {raw(LONG) / 1e6:.0f} MB. Peak of host memory, and what the long clip adds:"]
    for method, name in (("job", "a job, stored as a file"), ("diffusers", "diffusers, frames in memory")):
        short, long = megabytes[method, SHORT], megabytes[method, LONG]
        lines.append(f"  {name}: {short:.0f} MB and {long:.0f} MB, {long - short:+.0f} MB: {(long - short) / (raw(LONG) / 1e6):.2f} clips")
    return "\n".join(lines)


Generate = Callable[[int, int, int], None]
"""Generates a clip of a width, a height and a number of frames."""


@contextmanager
def _job(models: Path) -> Iterator[Generate]:
    with tempfile.TemporaryDirectory() as folder, local_worker("wan", models, Path(folder)) as worker:

        def generate(width: int, height: int, frames: int) -> None:
            config = {"width": width, "height": height, "frames": frames, "steps": 1, "guidance_scale": 1.0, "seed": 1}
            request = {"id": "clip", "user_id": "bench", "type": "video_fast", "prompt": "a red circle", "config": config}
            ended = asyncio.run(run_job(Job("clip", request), worker, bench_run()))
            assert isinstance(ended, Completed), ended.payload.error_message

        yield generate


@contextmanager
def _diffusers(models: Path) -> Iterator[Generate]:
    import torch

    from handlers.wan.weights.load import load_wan

    pipeline: Any = load_wan(models / "wan", torch.device("cpu"), torch.float32).text_to_video

    def generate(width: int, height: int, frames: int) -> None:
        pipeline("a red circle", width=width, height=height, num_frames=frames, num_inference_steps=1, guidance_scale=1.0)

    yield generate


def _peak(generate: Generate, frames: int, width: int, height: int) -> int:
    generate(64, 64, SHORT)  # warm-up: imports and one-time allocations
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    generate(width, height, frames)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    """Returns a memory figure of this process from the kernel, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clip_memory", description=__doc__)
    parser.add_argument("models", type=Path, metavar="MODELS")
    parser.add_argument("--method", choices=("job", "diffusers"), help="run a single measurement in this process")
    parser.add_argument("--frames", type=int, default=LONG)
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, metavar=("WIDTH", "HEIGHT"))
    options = parser.parse_args(arguments)
    if options.method is None:
        print(report(options.models))
        return 0
    prepare_environment()
    configure_logging("ERROR")
    with (_job if options.method == "job" else _diffusers)(options.models) as generate:
        print(_peak(generate, options.frames, *options.size))
    return 0


if __name__ == "__main__":
    sys.exit(main())
