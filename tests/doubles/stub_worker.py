"""A worker with a stub recipe, served through the real SDK: `python -m tests.doubles.stub_worker`.

It implements the SDXL contract without a model. The first word of the prompt selects its behavior, such as `slowly`,
`endlessly`, `held`, `crash` or `hang`.
"""

from __future__ import annotations

import ctypes
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image
from pydantic import JsonValue

from handlers.sdxl.request import SdxlRequest
from shared.errors import ModelUnavailable
from shared.handler import Handler
from shared.jobs.recipe import ImageOutput, JobRun, Output, Summary
from shared.serverless import serve
from shared.settings import Settings

STEPS_LOG = Path("steps.log")
"""One line per step in the worker's folder: job id and monotonic time."""
STEP_SECONDS = 0.05
HOLD = Path("hold")
"""While there is such a file in the worker's folder, a job that is `held` goes on, and one that is to lose the GPU does not yet."""


class AcceleratorError(RuntimeError):
    """Has the name and attribute of torch's error for a lost CUDA context."""

    error_code = 700


class OutOfMemoryError(RuntimeError):
    """Has the name of torch's out-of-memory error."""


class StubRecipe:
    """Generates single-color images from the seed.

    Attributes:
        on_step: Called in each step.
    """

    def __init__(self) -> None:
        self.on_step: Callable[[], object] = lambda: None

    def check(self, request: SdxlRequest) -> None:
        if request.loras:
            raise ModelUnavailable("This worker has no LoRA.")

    def generate(self, request: SdxlRequest, references: Mapping[str, Image.Image], run: JobRun) -> Generator[Output]:
        behavior = request.prompt.split()[0]
        if behavior in _FAILURES:
            _step(run)
            _FAILURES[behavior](request.prompt)
        for step in _steps(behavior, request.steps):
            run.cancel.check()
            _step(run)
            self.on_step()
            run.report(step + 1, max(step + 1, request.steps))
        for seed in request.seeds:
            color = np.random.default_rng(seed).integers(0, 256, 3, dtype=np.uint8)
            pixels = np.broadcast_to(color, (request.height, request.width, 3)).copy()
            yield ImageOutput(pixels, seed, request.output_format, {"steps": request.steps, "batch_size": request.num_images})

    def summarize(self, request: SdxlRequest, outputs: Sequence[Output]) -> Summary:
        notes: dict[str, JsonValue] = {"hugely": "x" * 9 * 1024**2, "infinitely": math.inf}
        return Summary({"model_used": "paint", "note": notes.get(request.prompt.split()[0])})


def _steps(behavior: str, steps: int) -> Iterator[int]:
    if behavior == "held":
        yield from takewhile(lambda step: step < 3 or HOLD.exists(), count())
    else:
        # Endlessly is two minutes: only a job that is stopped ends in a test.
        yield from range({"endlessly": 2400, "slowly": steps}.get(behavior, 3))


def _step(run: JobRun) -> None:
    time.sleep(STEP_SECONDS)
    with STEPS_LOG.open("a") as log:
        log.write(f"{run.job_id} {time.monotonic()}\n")


def _crash(prompt: str) -> NoReturn:
    raise RuntimeError(f"cannot paint {prompt}")


def _lose_the_device(prompt: str) -> NoReturn:
    while HOLD.exists():
        time.sleep(STEP_SECONDS)
    raise AcceleratorError("CUDA error: an illegal memory access was encountered")


def _fill_the_memory(prompt: str) -> NoReturn:
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def _hang(prompt: str) -> NoReturn:
    """Like a kernel that never returns: this thread is blocked, the others run on."""
    while True:
        threading.Event().wait()


def _freeze(prompt: str) -> NoReturn:
    """Like an extension that never releases the GIL: no Python code runs any more."""
    while True:
        ctypes.PyDLL(None).sleep(3600)


_FAILURES = {"crash": _crash, "lose": _lose_the_device, "fill": _fill_the_memory, "hang": _hang, "freeze": _freeze}


def load(_settings: Settings) -> StubRecipe:
    return StubRecipe()


HANDLER = Handler("paint", SdxlRequest, load)

if __name__ == "__main__":
    serve(HANDLER)
