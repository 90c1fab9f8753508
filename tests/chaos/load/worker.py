"""A worker with a real handler on small models in the real SDK, some of whose jobs meet a fault.

`LOAD_HANDLER` selects the handler, `sdxl` or `wan`. The prefix of a job id selects the fault, which the denoiser meets during that job:
`oom-` out of memory, `nan-` outputs that are not a number, `slow-` delayed steps. Each step is logged as in the stub worker.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from PIL import Image

from shared.jobs.recipe import JobRun, Output, Summary
from shared.serverless import serve
from tests.doubles.stub_worker import STEPS_LOG

PreHook = Callable[[Any, Any], None]


def _fault(job_id: str) -> tuple[PreHook, float | None]:
    """Returns what runs before each step of a job, and the value that replaces the step's result, if any."""
    import torch

    def out_of_memory(_network: Any, _arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def delay(_network: Any, _arguments: Any) -> None:
        time.sleep(0.1)

    before: PreHook = {"oom": out_of_memory, "slow": delay}.get(job_id.partition("-")[0], lambda _network, _arguments: None)
    return before, float("nan") if job_id.startswith("nan-") else None


class FaultyRecipe:
    """Wraps a recipe, and injects faults into its denoiser by job id."""

    def __init__(self, recipe: Any, denoiser: Any) -> None:
        self._recipe = recipe
        self._denoiser = denoiser

    def check(self, request: Any) -> None:
        self._recipe.check(request)

    def generate(self, request: Any, references: Mapping[str, Image.Image], run: JobRun) -> Generator[Output]:
        with self._faults_of(run.job_id):
            yield from self._recipe.generate(request, references, run)

    def summarize(self, request: Any, outputs: Sequence[Output]) -> Summary:
        summary: Summary = self._recipe.summarize(request, outputs)
        return summary

    def idle_work(self) -> Iterable[Callable[[], None]]:
        work: Iterable[Callable[[], None]] = self._recipe.idle_work()
        return work

    @contextmanager
    def _faults_of(self, job_id: str) -> Iterator[None]:
        import torch

        before, replacement = _fault(job_id)

        def log_step(network: Any, arguments: Any) -> None:
            with STEPS_LOG.open("a") as log:
                log.write(f"{job_id} {time.monotonic()}\n")
            before(network, arguments)

        def replace_result(_network: Any, _arguments: Any, result: Any) -> Any:
            return result if replacement is None else tuple(torch.full_like(tensor, replacement) for tensor in result)

        hooks = [self._denoiser.register_forward_pre_hook(log_step), self._denoiser.register_forward_hook(replace_result)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def main() -> None:
    """Serves the handler."""
    name = os.environ["LOAD_HANDLER"]
    handler = importlib.import_module(f"handlers.{name}.handler").HANDLER

    def load(settings: Any) -> FaultyRecipe:
        recipe = handler.load(settings)
        denoiser = recipe._pipelines.text_to_video.transformer if name == "wan" else recipe._pipeline.unet
        return FaultyRecipe(recipe, denoiser)

    serve(replace(handler, load=load))


if __name__ == "__main__":
    main()
