"""Measures the time of complete WAN jobs on a GPU, and its breakdown: `python -m benchmarks.wan_speed MODELS`.

The networks have their full size and random weights, which are as fast as trained ones. Only the tokenizer of MODELS, the folder of
`builder.make_tiny_models`, is used. One process compares the worker's jobs, with and without lossless acceleration, with the same clip by
diffusers, and relates the transformer's throughput to that of a large matrix multiplication. With `--tiny` the small models of MODELS are
measured instead, as a smoke test.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.local_worker import bench_run, local_worker
from shared.jobs.lifecycle import Completed, Job, Worker, run_job
from shared.settings import prepare_environment
from shared.telemetry import configure_logging

PROMPT = "waves roll onto a beach"


@dataclass(frozen=True)
class Size:
    """The clip to generate."""

    width: int
    height: int
    frames: int
    steps: tuple[int, ...]


FULL, TINY = Size(480, 832, 81, (25, 50)), Size(64, 64, 9, (2, 4))


def report(models: Path, *, tiny: bool) -> Iterator[str]:
    """Yields the results line by line."""
    from handlers.wan.compilation import compiled_transformers
    from handlers.wan.recipe import WanRecipe
    from shared.models.compilation import can_compile
    from shared.weights.addons import AddonLibrary

    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    size, pipelines = (TINY if tiny else FULL), _load(models, device, tiny=tiny)
    rate, flops = matrix_rate(device), forward_flops(pipelines.text_to_video, size)
    yield f"{size.frames} frames of {size.width} × {size.height}; a matrix multiplication: {rate / 1e12:.2f} TFLOPS"
    compiled = compiled_transformers(pipelines) if can_compile(device) else {}
    recipe = WanRecipe(pipelines, AddonLibrary(models), compiled=compiled)
    for piece in recipe.idle_work():
        piece()
    with tempfile.TemporaryDirectory() as folder, local_worker("wan", models, Path(folder), recipe) as worker:
        job(worker, size, 1, "none")  # warm-up
        for steps in size.steps:
            for acceleration in ("none", "lossless"):
                job(worker, size, 1, acceleration)
                reset_peak()
                timings = job(worker, size, steps, acceleration)
                yield f"{steps} steps, a job, {acceleration}: {_shares(timings)}, peak {peak_gb():.1f} GB"
            yield f"{steps} steps, diffusers: {_diffusers_line(pipelines.text_to_video, size, steps, flops / rate)}"


def _diffusers_line(pipeline: Any, size: Size, steps: int, forward: float) -> str:
    """Measures the same clip by diffusers.

    Args:
        pipeline: Text-to-video.
        size: The clip.
        steps: Each calls the transformer twice, because of guidance.
        forward: The seconds that one call would take at the throughput of the matrix multiplication.
    """
    reset_peak()
    latents = timed(lambda: run_diffusers(pipeline, size, steps, "latent"))
    frames = timed(lambda: run_diffusers(pipeline, size, steps, "np"))
    share, decoding = 2 * steps * forward / latents, max(0.0, frames - latents) / frames
    return f"{frames:.2f} s; decode {decoding:.0%}, steps at {share:.0%} of the matrix rate, peak {peak_gb():.1f} GB"


def _load(models: Path, device: torch.device, *, tiny: bool) -> Any:
    from benchmarks.wan_networks import full_size
    from handlers.wan.weights.load import load_wan
    from shared.models.device import choose_dtype

    return load_wan(models / "wan", device, choose_dtype(device, "wan")) if tiny else full_size(models / "wan" / "tokenizer", device)


def matrix_rate(device: torch.device) -> float:
    """Returns the operations per second of a large matrix multiplication in bfloat16."""
    side = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    timed(lambda: left @ right)
    return 2 * side**3 / min(timed(lambda: left @ right) for _ in range(10))


def forward_flops(pipeline: Any, size: Size) -> float:
    """Counts the operations of one call of the transformer. With guidance a step has two calls."""
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        pipeline(
            PROMPT, width=size.width, height=size.height, num_frames=size.frames, num_inference_steps=1, guidance_scale=1.0,
            output_type="latent",
        )  # fmt: skip
    return float(sum(counter.get_flop_counts().get(type(pipeline.transformer).__name__, {}).values()))


def run_diffusers(pipeline: Any, size: Size, steps: int, output: str) -> None:
    """Generates a clip with diffusers, to latents or to frames in memory."""
    with torch.inference_mode():
        pipeline(
            PROMPT, width=size.width, height=size.height, num_frames=size.frames, num_inference_steps=steps, guidance_scale=6.5,
            generator=torch.Generator("cpu").manual_seed(1), output_type=output,
        )  # fmt: skip


def job(worker: Worker[Any], size: Size, steps: int, acceleration: str) -> dict[str, float]:
    """Runs a complete job with storage on the local disk, and returns the seconds of each stage."""
    config = {"width": size.width, "height": size.height, "frames": size.frames, "steps": steps, "seed": 1, "acceleration": acceleration}
    request = {"id": "clip", "user_id": "bench", "type": "video_fast", "prompt": PROMPT, "config": config}
    started = time.perf_counter()
    ended = asyncio.run(run_job(Job("clip", request), worker, bench_run()))
    if not isinstance(ended, Completed):
        raise SystemExit(f"the job did not complete: {ended.payload.error_message}")
    return dict(ended.payload.metadata.timings) | {"whole": time.perf_counter() - started}


def _shares(timings: dict[str, float]) -> str:
    whole = timings["whole"]
    return f"{whole:.2f} s; " + ", ".join(f"{name} {timings[name] / whole:.0%}" for name in ("generate", "encode", "upload"))


def timed(work: Callable[[], object]) -> float:
    """Returns the seconds that work takes, including the GPU's."""
    _synchronize()
    started = time.perf_counter()
    work()
    _synchronize()
    return time.perf_counter() - started


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_peak() -> None:
    """Resets the peak of GPU memory."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_gb() -> float:
    """Returns the peak of GPU memory since the last reset, in GB; 0 without a GPU."""
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wan_speed", description=__doc__)
    parser.add_argument("models", type=Path, metavar="MODELS")
    parser.add_argument("--tiny", action="store_true", help="measure the small models, as a smoke test")
    options = parser.parse_args(arguments)
    prepare_environment()
    configure_logging("ERROR")
    for line in report(options.models, tiny=options.tiny):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
