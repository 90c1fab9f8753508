"""SDXL's features on a fake CUDA device: their requests, and a recipe whose add-ons are created instead of read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.device_counts import DECODE, DEVICE, request_for
from benchmarks.fake_cuda import FakeCuda
from benchmarks.feature_counts import URL, CountedRecipe, Estimates, FeatureUse, merged_bytes
from benchmarks.full_size_addons import FullSizeAddons
from benchmarks.sdxl_networks import SHALLOW_REFINER, controlnet, full_size, image_encoder, ip_adapter, lora, refiner, shallow
from handlers.sdxl.features.lora import lora_target
from handlers.sdxl.memory import HEADROOM, MemoryEstimate
from handlers.sdxl.postprocess.architectures import build, spandrel
from handlers.sdxl.postprocess.upscale import TILE, upscale_tiled
from handlers.sdxl.recipe import SdxlRecipe
from handlers.sdxl.request import SdxlRequest

_REFERENCE: Mapping[str, Any] = {"image": URL}
_CONTROL: Mapping[str, Any] = {"controls": [{"kind": "depth", "image": URL, "prepared": True}]}

FEATURES: Mapping[str, Mapping[str, Any]] = {
    "three images": {"num_images": 3},
    "no guidance": {"guidance_scale": 1.0},
    "previews": {"preview": True},
    "img2img": {**_REFERENCE, "denoise_strength": 1.0},
    "inpainting": {**_REFERENCE, "mask": URL},
    "ControlNet": _CONTROL,
    "two ControlNets": {"controls": 2 * _CONTROL["controls"]},
    "ControlNet with img2img": {**_CONTROL, **_REFERENCE, "denoise_strength": 1.0},
    "IP-Adapter": {"references": [{"image": URL, "type": "style", "strength": 0.8}]},
    "LoRA": {"loras": [{"name": "style", "scale": 0.7}]},
    "refiner": {"refiner": {"switch_at": 0.5}},
}
"""The configuration of each."""

_UPSCALER = 2_100_000_000
"""What docs/handlers/sdxl.md says of Real-ESRGAN, without the allowance. Nothing is refused by it: tiles shrink when memory is short."""
_UPSCALED_SIDE = 3 * TILE  # pixels: the tile in the middle has context on all sides


def sdxl_recipe(card: FakeCuda, *, is_full_size: bool) -> CountedRecipe:
    """Returns SDXL with every add-on, on an entered fake device.

    Args:
        card: The device.
        is_full_size: Whether the networks have the published sizes, and jobs two steps at 1024 × 1024 instead of ten at 64 × 64.
    """
    pipeline = (full_size if is_full_size else shallow)(DEVICE)
    unet, target = pipeline.unet, lora_target(pipeline)
    addons = FullSizeAddons(
        {
            ("controlnets", "depth"): lambda: controlnet(unet),
            ("image_encoder", "image_encoder"): lambda: image_encoder(unet),
            ("ip_adapters", "style"): lambda: ip_adapter(unet),
            ("loras", "style"): lambda: lora(target),
            ("refiner", "refiner"): lambda: refiner(unet) if is_full_size else refiner(unet, {**unet.config, **SHALLOW_REFINER}),
        }
    )
    networks = addons.build_all()
    merged = merged_bytes(target, networks["loras", "style"])
    # Schedulers for few steps wait more often: their jobs show the memory only.
    settings = {"resolution": "1024x1024", "scheduler": "tcd", "steps": 2} if is_full_size else {"resolution": "64x64", "steps": 10}
    return CountedRecipe(
        card,
        SdxlRecipe(pipeline, addons),
        lambda config: _parse({**settings, **config}),
        [unet, networks["controlnets", "depth"]],
        lambda request: _estimates(request, pipeline, merged),
    )


def sdxl_features() -> Iterator[FeatureUse]:
    """Counts each feature, for images of 1024 × 1024."""
    with FakeCuda() as card:
        small = sdxl_recipe(card, is_full_size=False)
        small.count(FEATURES["previews"])  # what is kept for later jobs: the map of previews, the encoded prompt
        waits = {name: small.count(config) for name, config in FEATURES.items()}
    with FakeCuda() as card:
        large = sdxl_recipe(card, is_full_size=True)
        for name, config in FEATURES.items():
            yield FeatureUse.of("SDXL", name, waits[name], large.count(config), large.estimate(large.parse(config)))
        yield _upscaler(card)


def _parse(config: Mapping[str, Any]) -> SdxlRequest:
    return request_for(SdxlRequest, "sdxl_image_high", "a red circle", config)


def _estimates(request: SdxlRequest, pipeline: Any, merged: int) -> Estimates:
    estimate = MemoryEstimate.of(request, pipeline)
    reference = replace(estimate, encodes=request.reference_method in {"img2img", "inpaint"})
    denoising = request.num_images * estimate.denoising
    encoding, denoising, decoding = (int(size / HEADROOM) for size in (reference.encoding, denoising, estimate.decoding))
    merged = merged if request.loras else 0
    return Estimates(encoding + merged, denoising + merged, decoding + merged)


def _upscaler(card: FakeCuda) -> FeatureUse:
    """Upscales an image of nine tiles with a network of Real-ESRGAN's published size."""
    spandrel()
    from spandrel.architectures.ESRGAN import ESRGAN

    network = build(ESRGAN(scale=4, num_blocks=23, num_filters=64).state_dict(), "real-esrgan")
    network.to(DEVICE, torch.float16).eval()
    card.reset(DECODE)
    resident = card.memory.allocated
    with torch.inference_mode():
        upscale_tiled(np.zeros((_UPSCALED_SIDE, _UPSCALED_SIDE, 3), np.uint8), network, 4, lambda: None, tile=TILE)
    return FeatureUse("SDXL", "upscaler", 0, 0, card.counts.waits_in(DECODE), 0, 0, card.memory.peak - resident, 0, 0, _UPSCALER)
