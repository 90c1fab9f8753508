"""A worker without a model: it paints, slowly or badly when asked to. `python -m tests.doubles.stub_worker` serves it in the real SDK.

The prompt's first word says what happens; everything else is the SDXL contract.
"""

from __future__ import annotations

import ctypes
import math
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
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
"""One line per step, in the worker's folder: `job_id seconds`."""
STEP_SECONDS = 0.05


class AcceleratorError(RuntimeError):
    """What torch raises when the GPU's context is lost, by name and attribute."""

    error_code = 700


class OutOfMemoryError(RuntimeError):
    """What torch raises when memory does not suffice, by name."""


class StubRecipe:
    """Pictures of one colour each, made from the seed.

    Attributes:
        on_step: Called at each step.
    """

    def __init__(self) -> None:
        self.on_step: Callable[[], object] = lambda: None

    def check(self, request: SdxlRequest) -> None:
        if request.loras:
            raise ModelUnavailable("This worker has no LoRA.")

    def generate(self, request: SdxlRequest, references: Mapping[str, Image.Image], run: JobRun) -> Generator[Output]:
        verb = request.prompt.split()[0]
        if verb in _FAILURES:
            _step(run)
            _FAILURES[verb](request.prompt)
        for step in range(request.steps if verb == "slowly" else 3):
            run.cancel.check()
            _step(run)
            self.on_step()
            run.report(step + 1, request.steps)
        for seed in request.seeds:
            colour = np.random.default_rng(seed).integers(0, 256, 3, dtype=np.uint8)
            pixels = np.broadcast_to(colour, (request.height, request.width, 3)).copy()
            yield ImageOutput(pixels, seed, request.output_format, {"steps": request.steps, "batch_size": request.num_images})

    def summarize(self, request: SdxlRequest, outputs: Sequence[Output]) -> Summary:
        notes: dict[str, JsonValue] = {"hugely": "x" * 9 * 1024**2, "infinitely": math.inf}
        return Summary({"model_used": "paint", "note": notes.get(request.prompt.split()[0])})


def _step(run: JobRun) -> None:
    time.sleep(STEP_SECONDS)
    with STEPS_LOG.open("a") as log:
        log.write(f"{run.job_id} {time.monotonic()}\n")


def _crash(prompt: str) -> NoReturn:
    raise RuntimeError(f"cannot paint {prompt}")


def _lose_the_device(prompt: str) -> NoReturn:
    time.sleep(20 * STEP_SECONDS)  # others may come meanwhile
    raise AcceleratorError("CUDA error: an illegal memory access was encountered")


def _fill_the_memory(prompt: str) -> NoReturn:
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def _hang(prompt: str) -> NoReturn:
    """As a kernel that never ends: this thread does not come back, the others go on."""
    while True:
        threading.Event().wait()


def _freeze(prompt: str) -> NoReturn:
    """As an extension that never lets go of the interpreter: no line of Python is run any more."""
    while True:
        ctypes.PyDLL(None).sleep(3600)


_FAILURES = {"crash": _crash, "lose": _lose_the_device, "fill": _fill_the_memory, "hang": _hang, "freeze": _freeze}


def load(_settings: Settings) -> StubRecipe:
    return StubRecipe()


HANDLER = Handler("paint", SdxlRequest, load)

if __name__ == "__main__":
    serve(HANDLER)
