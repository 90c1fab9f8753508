"""SDXL's handler with a recipe that sleeps instead of computing, for `benchmarks.full_queue`."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from handlers.sdxl.handler import HANDLER
from handlers.sdxl.request import SdxlRequest
from shared.jobs.recipe import ImageOutput, JobRun, Output, Summary
from shared.serverless import serve
from shared.settings import Settings

GPU_SECONDS = "BENCHMARK_GPU_SECONDS"
"""The variable with the seconds that a job sleeps on the GPU thread."""


class SleepingRecipe:
    """Generates noise after a pause.

    Args:
        seconds: The pause.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._span = (0.0, 0.0)

    def check(self, request: SdxlRequest) -> None:
        """Serves every request."""

    def generate(self, request: SdxlRequest, references: Mapping[str, Image.Image], run: JobRun) -> Generator[Output]:
        """Sleeps, then yields the image."""
        start = time.monotonic()
        pixels = np.random.default_rng(request.seed).integers(0, 256, (request.height, request.width, 3), np.uint8)
        time.sleep(max(0.0, start + self._seconds - time.monotonic()))
        self._span = (start, time.monotonic())
        yield ImageOutput(pixels, request.seed, request.output_format, {"steps": request.steps, "batch_size": 1})

    def summarize(self, request: SdxlRequest, outputs: Sequence[Output]) -> Summary:
        """Reports when the job was on the GPU."""
        return Summary({"model_used": "sleep", "gpu_span": list(self._span)})


def load(_settings: Settings) -> SleepingRecipe:
    """Loads nothing."""
    return SleepingRecipe(float(os.environ[GPU_SECONDS]))


if __name__ == "__main__":
    serve(replace(HANDLER, load=load, libraries=(), weights=(), idle_work=lambda _recipe: ()))
