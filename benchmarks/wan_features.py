"""WAN's features on a fake CUDA device: their requests, and recipes of the published networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.device_counts import DEVICE, request_for
from benchmarks.fake_cuda import FakeCuda
from benchmarks.feature_counts import STEPS, URL, CountedRecipe, Estimates, FeatureUse, merged_bytes
from benchmarks.full_size_addons import FullSizeAddons
from benchmarks.sdxl_networks import lora
from benchmarks.wan_networks import full_size, full_size_image_to_video, shallow, shallow_image_to_video
from handlers.wan.features.lora import lora_target
from handlers.wan.memory import MemoryEstimate
from handlers.wan.pipeline import select_pipeline
from handlers.wan.recipe import WanRecipe
from handlers.wan.request import WanRequest
from handlers.wan.weights.load import WanPipelines

FEATURES: Mapping[str, Mapping[str, Any]] = {
    "text → video": {},
    "no guidance": {"guidance_scale": 1.0},
    "previews": {"preview": True},
    "first and last frame, by VACE": {"first_frame": URL, "last_frame": URL},
    "reference, by VACE": {"image": URL},
    "LoRA": {"loras": [{"name": "style", "scale": 0.5}]},
    "first-block cache": {"acceleration": "first_block_cache"},
    "MagCache": {"acceleration": "mag_cache"},
    "TaylorSeer": {"acceleration": "taylorseer_cache"},
}
"""The configuration of each, for WAN 2.1 VACE 1.3B."""

IMAGE_TO_VIDEO: Mapping[str, Mapping[str, Any]] = {"image → video, 14B": {"first_frame": URL}}
"""Likewise for WAN 2.1 image to video."""

_CACHING_STEPS = 5
"""Full-size steps: a cache keeps tensors from its second or, for TaylorSeer, its fourth step on."""
_TOTAL = 80 * 2**30  # bytes of the fake device


def wan_recipe(card: FakeCuda, pipelines: WanPipelines, *, is_full_size: bool) -> CountedRecipe:
    """Returns WAN with a LoRA, on an entered fake device.

    Args:
        card: The device.
        pipelines: On it.
        is_full_size: Whether jobs have few steps, 81 frames and 832 × 480 pixels, instead of ten steps, 9 frames and 64 × 64.
    """
    target = lora_target(pipelines)
    addons = FullSizeAddons({("loras", "style"): lambda: lora(target)})
    merged = merged_bytes(target, addons.build_all()["loras", "style"])
    size = {"width": 832, "height": 480, "frames": 81} if is_full_size else {"width": 64, "height": 64, "frames": 9, "steps": STEPS}

    def parse(config: Mapping[str, Any]) -> WanRequest:
        steps = {"steps": _CACHING_STEPS if "acceleration" in config else 2} if is_full_size else {}
        settings = {"guidance_scale": 6.5, "fps": 16, **size, **steps, **config}
        return request_for(WanRequest, "video_fast", "waves", settings)

    def estimate(request: WanRequest) -> Estimates:
        memory, transformer = MemoryEstimate.of(request, pipelines.vae), select_pipeline(pipelines, request).transformer
        encoding, decoding = memory.encoding(transformer, tiled=False), memory.decoding(tiled=False)
        in_addition = merged if request.loras else 0  # until the last step
        return Estimates(encoding + in_addition, memory.denoising(transformer) + in_addition, decoding)

    denoisers = [pipeline.transformer for pipeline in pipelines.all]
    return CountedRecipe(card, WanRecipe(pipelines, addons), parse, denoisers, estimate)


def wan_features(tokenizer: Path) -> Iterator[FeatureUse]:
    """Counts each feature, for clips of 81 frames of 832 × 480.

    Args:
        tokenizer: The tokenizer folder of any WAN.
    """
    for features, small, large in (
        (FEATURES, shallow, full_size),
        (IMAGE_TO_VIDEO, shallow_image_to_video, full_size_image_to_video),
    ):
        with FakeCuda() as card:
            recipe = wan_recipe(card, small(tokenizer, DEVICE), is_full_size=False)
            recipe.count({**next(iter(features.values())), "preview": True})  # what is kept for later jobs: the map, the encoded prompt
            waits = {name: recipe.count(config) for name, config in features.items()}
        with FakeCuda(total=_TOTAL) as card:
            recipe = wan_recipe(card, large(tokenizer, DEVICE), is_full_size=True)
            for name, config in features.items():
                job = recipe.count(config)
                yield FeatureUse.of("WAN", name, waits[name], job, recipe.estimate(recipe.parse(config)))
