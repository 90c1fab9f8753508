"""A real handler on small models, in the real SDK, some of whose jobs meet a fault: `LOAD_HANDLER` says which, `sdxl` or `wan`.

The id of a job says what it meets, inside the network that denoises, while it and no other is made: `oom-…` memory that does not suffice,
`nan-…` numbers that are none, `slow-…` a step that takes its time. Each step is written down, as the painting worker does it.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from PIL import Image

from shared.jobs.recipe import Product, Run, Summary
from shared.serverless import serve
from tests.doubles.paint import STEPS_LOG

Before = Callable[[Any, Any], None]


def _fault(job_id: str) -> tuple[Before, Any]:
    """What is done before a step of a job, and what its result is filled with, if it is."""
    import torch

    def no_memory(_network: Any, _arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def slowly(_network: Any, _arguments: Any) -> None:
        time.sleep(0.1)

    before: Before = {"oom": no_memory, "slow": slowly}.get(job_id.partition("-")[0], lambda _network, _arguments: None)
    return before, float("nan") if job_id.startswith("nan-") else None


class Faulty:
    """A recipe some of whose jobs meet a fault."""

    def __init__(self, recipe: Any) -> None:
        self._recipe = recipe
        self._denoiser = recipe._pipelines.text.transformer if hasattr(recipe, "_pipelines") else recipe._pipeline.unet

    def accept(self, request: Any) -> None:
        self._recipe.accept(request)

    def generate(self, request: Any, references: Mapping[str, Image.Image], run: Run) -> Generator[Product]:
        with self._meeting(run.job_id):
            yield from self._recipe.generate(request, references, run)

    def summarize(self, request: Any, products: Sequence[Product]) -> Summary:
        summary: Summary = self._recipe.summarize(request, products)
        return summary

    @contextmanager
    def _meeting(self, job_id: str) -> Iterator[None]:
        import torch

        before, spoilt = _fault(job_id)

        def note(network: Any, arguments: Any) -> None:
            with STEPS_LOG.open("a") as log:
                log.write(f"{job_id} {time.monotonic()}\n")
            before(network, arguments)

        def after(_network: Any, _arguments: Any, result: Any) -> Any:
            return result if spoilt is None else tuple(torch.full_like(tensor, spoilt) for tensor in result)

        hooks = [self._denoiser.register_forward_pre_hook(note), self._denoiser.register_forward_hook(after)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


if __name__ == "__main__":
    handler = importlib.import_module(f"handlers.{os.environ['LOAD_HANDLER']}.handler").HANDLER
    serve(replace(handler, load=lambda settings: Faulty(handler.load(settings))))
