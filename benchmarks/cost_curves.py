"""Counts what a job costs against what it asks for: `python -m benchmarks.cost_curves MODELS_DIR`.

SDXL and WAN: the floating-point operations of whole jobs, with networks of the published sizes on a fake CUDA device. Jobs are counted with
two steps, and each further step is counted as those. Chat: the bytes that a GPU reads for each token of an answer, computed from the shape
of Qwen 2.5 7B; a decode step takes as long as they take to be read.

It takes minutes, so `make performance` does not run it. The curves are kept in `benchmarks/results.json`, and `make performance` shows them
in docs/performance.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.device_counts import DENOISE, DEVICE, count_job, request_for
from benchmarks.fake_cuda import FakeCuda
from benchmarks.report import keep
from shared.jobs.recipe import Recipe
from shared.settings import prepare_environment

Curve = dict[str, float]
"""The cost by what is asked for."""

STEPS = 25
_COUNTED_STEPS = 2

SIDES, IMAGES, IMAGE_STEPS = (512, 768, 1024, 1280, 1536, 2048), (1, 3, 6), (10, 25, 50)
FRAMES, SIZES, CLIP_STEPS = (17, 33, 49, 65, 81), ("416x240", "624x352", "832x480"), (10, 25, 50)
CONVERSATIONS, CONTEXTS = (1, 4, 16, 64), (1_024, 4_096, 16_384, 32_768)

_QWEN: Mapping[str, int] = {"hidden": 3584, "inner": 18944, "layers": 28, "kv_heads": 4, "head": 128, "vocabulary": 152_064}
"""Qwen/Qwen2.5-7B-Instruct, config.json."""
_BFLOAT16 = 2  # bytes


def sdxl_curves(sides: Iterable[int] = SIDES, images: Iterable[int] = IMAGES) -> dict[str, Curve]:
    """Returns 10¹² operations of a job against the side of an image, the number of images, and the steps."""
    from benchmarks.full_size_addons import FullSizeAddons
    from benchmarks.sdxl_networks import full_size
    from handlers.sdxl.recipe import SdxlRecipe
    from handlers.sdxl.request import SdxlRequest

    with FakeCuda() as card:
        pipeline = full_size(DEVICE)
        recipe = SdxlRecipe(pipeline, FullSizeAddons({}))

        @cache
        def cost(side: int, count: int) -> Cost:
            # One of the schedulers that take two steps.
            config = {"resolution": f"{side}x{side}", "num_images": count, "steps": _COUNTED_STEPS, "scheduler": "tcd"}
            return _count(card, recipe, request_for(SdxlRequest, "sdxl_image_high", "a circle", config), pipeline.unet)

        return {
            "sides": {str(side): cost(side, 1)(STEPS) for side in sides},
            "images": {str(count): cost(1024, count)(STEPS) for count in images},
            "steps": {str(steps): cost(1024, 1)(steps) for steps in IMAGE_STEPS},
        }


def wan_curves(tokenizer: Path, frames: Iterable[int] = FRAMES, sizes: Iterable[str] = SIZES) -> dict[str, Curve]:
    """Returns 10¹² operations of a job against the frames and the size of a clip, and the steps.

    Args:
        tokenizer: The tokenizer folder of any WAN.
        frames: Of clips of 832 × 480.
        sizes: Of clips of 81 frames.
    """
    from benchmarks.wan_networks import full_size
    from handlers.wan.recipe import WanRecipe
    from handlers.wan.request import WanRequest
    from shared.weights.addons import AddonLibrary

    with FakeCuda() as card:
        pipelines = full_size(tokenizer, DEVICE)
        recipe = WanRecipe(pipelines, AddonLibrary())

        @cache
        def cost(size: str, count: int) -> Cost:
            width, height = map(int, size.split("x"))
            config = {"width": width, "height": height, "frames": count, "steps": _COUNTED_STEPS}
            request = request_for(WanRequest, "video_fast", "waves", config)
            return _count(card, recipe, request, pipelines.text_to_video.transformer)

        return {
            "frames": {str(count): cost("832x480", count)(STEPS) for count in frames},
            "sizes": {size: cost(size, 81)(STEPS) for size in sizes},
            "steps": {str(steps): cost("832x480", 81)(steps) for steps in CLIP_STEPS},
        }


Cost = Callable[[int], float]
"""Returns 10¹² operations of a job with a number of steps."""


def _count(card: FakeCuda, recipe: Recipe[Any], request: Any, denoiser: Any) -> Cost:
    counts = count_job(card, recipe, request, [denoiser]).counts
    step = counts.flops_in(DENOISE) / _COUNTED_STEPS
    rest = counts.flops_in() - counts.flops_in(DENOISE)
    return lambda steps: (rest + steps * step) / 1e12


def chat_curves() -> dict[str, Curve]:
    """Returns, by conversations at once, the gigabytes that are read for a token against the tokens of each context."""
    return {
        str(conversations): {str(context): bytes_per_token(conversations, context) / 1e9 for context in CONTEXTS}
        for conversations in CONVERSATIONS
    }


def bytes_per_token(conversations: int, context: int) -> float:
    """Returns the bytes that one token of one conversation takes its share of: all weights but the embedding, and its keys and values."""
    keys_and_values = 2 * _QWEN["layers"] * _QWEN["kv_heads"] * _QWEN["head"] * _BFLOAT16
    return _weights() * _BFLOAT16 / conversations + context * keys_and_values


def _weights() -> int:
    hidden, keys = _QWEN["hidden"], _QWEN["kv_heads"] * _QWEN["head"]
    attention = 2 * hidden * hidden + 2 * hidden * keys + hidden + 2 * keys  # with the biases of queries, keys and values
    layer = attention + 3 * hidden * _QWEN["inner"] + 2 * hidden
    return _QWEN["layers"] * layer + hidden + hidden * _QWEN["vocabulary"]  # the last is the output layer; of the embedding, rows are read


def main(models: Path) -> None:
    """Prints the curves, and keeps them in the results."""
    curves = {"sdxl": sdxl_curves(), "wan": wan_curves(models / "wan/tokenizer"), "chat": chat_curves()}
    print(json.dumps(curves, indent=2))
    keep(cost_curves=curves)


if __name__ == "__main__":
    prepare_environment()
    main(Path(sys.argv[1]))
