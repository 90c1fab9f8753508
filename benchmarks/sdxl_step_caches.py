"""Counts the operations of SDXL jobs with and without DeepCache at full size: `python -m benchmarks.sdxl_step_caches`.

The networks are the published ones without weights, on a fake CUDA device. What is counted is what jobs execute. How long a GPU takes for
that is another question: the blocks that run in every step have the largest tensors, and so they wait for memory the most.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.device_counts import DENOISE, DEVICE, count_job, request_for
from benchmarks.fake_cuda import FakeCuda
from shared.settings import prepare_environment

ACCELERATIONS = ("none", "deepcache", "deepcache_shallow")


@dataclass(frozen=True)
class DenoisingCost:
    """What denoising one image takes.

    Attributes:
        acceleration: The setting of the request.
        operations: Floating-point operations, in 10¹².
        memory: Peak bytes in addition to the weights.
        waits: The most waits of the host in a step, the first excluded.
    """

    acceleration: str
    operations: float
    memory: int
    waits: int


def denoising_costs(steps: int, **config: Any) -> Iterator[DenoisingCost]:
    """Counts an image of 1024 × 1024 with guidance and each acceleration.

    Args:
        steps: The denoising steps.
        config: Further settings of the request.
    """
    from benchmarks.full_size_addons import FullSizeAddons
    from benchmarks.sdxl_networks import full_size
    from handlers.sdxl.recipe import SdxlRecipe
    from handlers.sdxl.request import SdxlRequest

    with FakeCuda() as card:
        pipeline = full_size(DEVICE)
        recipe = SdxlRecipe(pipeline, FullSizeAddons({}))
        for acceleration in ACCELERATIONS:
            settings = {"resolution": "1024x1024", "steps": steps, "acceleration": acceleration} | config
            job = count_job(card, recipe, request_for(SdxlRequest, "sdxl_image_high", "a circle", settings), [pipeline.unet])
            yield DenoisingCost(acceleration, job.counts.flops_in(DENOISE) / 1e12, job.needed(DENOISE), max(job.waits_by_step[1:]))


def main() -> None:
    """Prints a row for each acceleration. The first argument is the number of steps, 25 by default."""
    plain = 0.0
    for cost in denoising_costs(int(sys.argv[1]) if len(sys.argv) > 1 else 25):
        plain = plain or cost.operations
        share, memory = cost.operations / plain, cost.memory / 1e9
        print(f"{cost.acceleration:18} {cost.operations:6.1f} TFLOP, {share:.1%}; {memory:.2f} GB; {cost.waits} waits in a step")


if __name__ == "__main__":
    prepare_environment()
    main()
