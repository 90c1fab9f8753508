"""Counts complete jobs at full size on a fake CUDA device, for docs/performance.md: `python -m benchmarks.device_report MODELS_DIR`.

Operations are compared with what the networks alone need: the denoiser once a step, the decoder once an image or clip, the text encoders
once a prompt. Memory is compared with the estimates that decide what fits (`handlers/*/memory.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.device_counts import DECODE, DENOISE, DEVICE, PREPARE, JobCounts, count_job, flops_of, request_for
from benchmarks.fake_cuda import FakeCuda
from shared.settings import prepare_environment


@dataclass(frozen=True)
class DeviceUse:
    """One job.

    Attributes:
        job: What it generates.
        waits: The most waits of the host in a step, the first excluded.
        decode_waits: Waits after the last step.
        operations: Floating-point operations, in 10¹².
        overhead: Operations relative to those of the networks alone.
        denoising: Peak bytes while denoising, in addition to the weights.
        decoding: Likewise while decoding.
        estimated_denoising: The estimate, without its allowance for libraries.
        estimated_decoding: Likewise.
    """

    job: str
    waits: int
    decode_waits: int
    operations: float
    overhead: float
    denoising: int
    decoding: int
    estimated_denoising: int
    estimated_decoding: int


def sdxl_rows() -> Iterator[DeviceUse]:
    """Counts SDXL at 1024 × 1024 with guidance and ten steps, for one image and for six."""
    from benchmarks.full_size_addons import FullSizeAddons
    from benchmarks.sdxl_networks import full_size
    from handlers.sdxl.memory import HEADROOM, MemoryEstimate
    from handlers.sdxl.recipe import SdxlRecipe
    from handlers.sdxl.request import SdxlRequest

    with FakeCuda() as card:
        pipeline = full_size(DEVICE)
        recipe = SdxlRecipe(pipeline, FullSizeAddons({}))
        decoding = flops_of(card, lambda: pipeline.vae.decode(_empty(1, 4, 128, 128)))
        for images in (1, 6):
            step = flops_of(card, lambda: _call_unet(pipeline.unet, 2 * images))  # noqa: B023 - called at once
            config = {"resolution": "1024x1024", "steps": 10, "num_images": images, "scheduler": "unipc", "guidance_scale": 7.5}
            request = request_for(SdxlRequest, "sdxl_image_high", f"{images} circles", config)
            job, estimate = count_job(card, recipe, request, [pipeline.unet]), MemoryEstimate.of(request, pipeline)
            name = f"SDXL, {images} of 1024 × 1024"
            estimates = int(images * estimate.denoising / HEADROOM), int(estimate.decoding / HEADROOM)
            yield _row(name, job, 10 * step + images * decoding, *estimates)


def wan_row(models: Path, frames: int = 81) -> DeviceUse:
    """Counts a clip of 480 × 832 with guidance and two steps.

    Args:
        models: A MODELS_DIR, of which only WAN's tokenizer is used.
        frames: Of the clip.
    """
    from benchmarks.wan_networks import full_size
    from handlers.wan.memory import MemoryEstimate
    from handlers.wan.recipe import WanRecipe
    from handlers.wan.request import WanRequest
    from shared.weights.addons import AddonLibrary

    with FakeCuda() as card:
        pipelines = full_size(models / "wan/tokenizer", DEVICE)
        transformer = pipelines.text_to_video.transformer
        config = {"width": 832, "height": 480, "frames": frames, "steps": 2, "guidance_scale": 6.5}
        request = request_for(WanRequest, "video_fast", "waves", config)
        latents = _empty(1, 16, (frames - 1) // 4 + 1, 60, 104, dtype=torch.bfloat16)
        forward = flops_of(card, lambda: transformer(latents, torch.ones(1, device=DEVICE), _empty(1, 512, 4096, dtype=torch.bfloat16)))
        dtype = next(pipelines.vae.decoder.parameters()).dtype
        decoding = flops_of(card, lambda: pipelines.vae.decode(latents.to(dtype)))
        job, estimate = (
            count_job(card, WanRecipe(pipelines, AddonLibrary()), request, [transformer]),
            MemoryEstimate.of(request, pipelines.vae),
        )
        estimates = estimate.denoising(transformer), estimate.decoding(tiled=False)
        return _row(f"WAN 1.3B, {frames} frames of 832 × 480", job, 4 * forward + decoding, *estimates)


def count_all(models: Path) -> list[dict[str, Any]]:
    """Returns the rows as the page keeps them."""
    return [asdict(row) for row in (*sdxl_rows(), wan_row(models))]


def _row(name: str, job: JobCounts, needed: int, denoising: int, decoding: int) -> DeviceUse:
    """The text encoders count as needed as they are: once a prompt."""
    executed = job.counts.flops_in()
    return DeviceUse(
        name,
        max(job.waits_by_step[1:]),
        job.counts.waits_in(DECODE),
        executed / 1e12,
        executed / (needed + job.counts.flops_in(PREPARE)),
        job.needed(DENOISE),
        job.needed(DECODE),
        denoising,
        decoding,
    )


def _call_unet(unet: Any, samples: int) -> None:
    added = {"text_embeds": _empty(samples, 1280), "time_ids": _empty(samples, 6)}
    unet(_empty(samples, 4, 128, 128), torch.tensor(1), encoder_hidden_states=_empty(samples, 77, 2048), added_cond_kwargs=added)


def _empty(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=DEVICE)


if __name__ == "__main__":
    prepare_environment()
    for row in count_all(Path(sys.argv[1])):
        print(row)
