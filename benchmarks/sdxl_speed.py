"""Compares SDXL's generation speed with a plain diffusers call: `python -m benchmarks.sdxl_speed WEIGHTS`.

WEIGHTS is a checkpoint or a diffusers folder; `python -m benchmarks.make_full_size_sdxl FILE` generates a full-size checkpoint with random
weights, which takes the same time. For each batch size the same images are generated alternately in two ways with one set of networks: as a
job of this worker's recipe, without encoding and upload, and as a call of `StableDiffusionXLPipeline`. Reported are the median seconds per
image, the peak GPU memory, and the achieved share of the FLOP rate of a large matrix product measured in the same run. FLOPs are counted by
torch's FlopCounterMode for the networks' architectures and the image size.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.local_worker import bench_run
from handlers.sdxl.request import SdxlRequest
from shared.jobs.recipe import Recipe
from shared.models.device import choose_device, choose_dtype, reset_vram_peak, vram_used_mb
from shared.settings import prepare_environment
from shared.telemetry import configure_logging

_PROMPT = "a red circle on a blue background"
_GUIDANCE = 7.5


@dataclass(frozen=True)
class Speed:
    """One implementation's result.

    Attributes:
        seconds: Per image.
        memory: Peak GPU memory in MiB; 0 on a CPU.
    """

    seconds: float
    memory: int


def report(weights: Path, *, side: int, steps: int, batches: Sequence[int], rounds: int) -> str:
    """Returns all measurements as text."""
    from handlers.sdxl.compilation import compiled_networks
    from handlers.sdxl.recipe import SdxlRecipe
    from handlers.sdxl.weights.load import load_sdxl
    from shared.models.compilation import can_compile
    from shared.weights.addons import AddonLibrary

    device = choose_device("auto")
    dtype = choose_dtype(device, "sdxl")
    pipeline: Any = load_sdxl(weights, device, dtype)
    rate, flops = matmul_rate(device, dtype), flops_per_image(pipeline, side, steps)
    lines = [f"{side} × {side}, {steps} steps, {flops / 1e12:.2f} TFLOP per image; a matrix product reaches {rate / 1e12:.2f} TFLOP/s"]
    compiled = compiled_networks(pipeline) if can_compile(device) else ()
    recipe = SdxlRecipe(pipeline, AddonLibrary(Path("none")), compiled_networks=compiled)
    for piece in recipe.idle_work():  # as a worker does while it waits for jobs
        piece()
    plain = _plain(pipeline, dtype)
    for batch in batches:
        implementations: dict[str, Callable[[], object]] = {
            "this worker": partial(_generate, recipe, _request(side, steps, batch)),
            "diffusers": partial(_call_diffusers, plain, side, steps, batch),
        }
        for name, speed in _measure(implementations, device, batch, rounds).items():
            share = flops / speed.seconds / rate
            lines.append(
                f"  batch of {batch}, {name:<12} {speed.seconds:8.3f} s per image, {speed.memory:6d} MiB, {share:6.1%} of the rate"
            )
    return "\n".join(lines)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Returns the FLOP/s of a product of two large square matrices, the median of seven runs."""
    side = 8192 if device.type == "cuda" else 1024
    first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = [_timed(lambda: first @ second, device) for _ in range(8)][1:]
    return 2 * side**3 / statistics.median(seconds)


def flops_per_image(pipeline: Any, side: int, steps: int) -> int:
    """Returns the FLOPs of one image with classifier-free guidance: all UNet steps, and the VAE decoder."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad():
        unet, vae = (type(network).from_config(network.config) for network in (pipeline.unet, pipeline.vae))
        config, latent = unet.config, side // 8
        pooled = pipeline.text_encoder_2.config.projection_dim
        added = {"text_embeds": torch.empty(2, pooled), "time_ids": torch.empty(2, 6)}
        with FlopCounterMode(display=False) as step:
            text = torch.empty(2, 77, config.cross_attention_dim)
            unet(torch.empty(2, 4, latent, latent), torch.tensor(1), encoder_hidden_states=text, added_cond_kwargs=added)
        with FlopCounterMode(display=False) as decoding:
            vae.decode(torch.empty(1, 4, latent, latent))
    return int(steps * step.get_total_flops() + decoding.get_total_flops())


def _measure(implementations: dict[str, Callable[[], object]], device: torch.device, batch: int, rounds: int) -> dict[str, Speed]:
    """Runs each implementation once to warm up, then all of them in turn, so that changes in machine load affect all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in implementations}
    memory: dict[str, int] = {}
    for round_ in range(rounds + 1):
        for name, run in implementations.items():
            reset_vram_peak(device)
            taken = _timed(run, device)
            memory[name] = vram_used_mb(device)
            if round_:
                seconds[name].append(taken)
    return {name: Speed(statistics.median(seconds[name]) / batch, memory[name]) for name in implementations}


def _timed(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _request(side: int, steps: int, batch: int) -> SdxlRequest:
    config = {"resolution": f"{side}x{side}", "steps": steps, "num_images": batch, "guidance_scale": _GUIDANCE, "seed": 1}
    raw = {"id": "speed", "user_id": "bench", "type": "sdxl_image_high", "prompt": _PROMPT, "config": config}
    return SdxlRequest.parse(raw, job_id="speed")


def _generate(recipe: Recipe[SdxlRequest], request: SdxlRequest) -> object:
    return list(recipe.generate(request, {}, bench_run()))


def _plain(pipeline: Any, dtype: torch.dtype) -> Any:
    """Returns the pipeline as diffusers creates it, including a half-precision VAE that it upcasts in every call."""
    plain = type(pipeline)(**pipeline.components | {"vae": copy.deepcopy(pipeline.vae).to(dtype)}, add_watermarker=False)
    plain.set_progress_bar_config(disable=True)
    return plain


def _call_diffusers(plain: Any, side: int, steps: int, batch: int) -> object:
    with torch.inference_mode():
        noise = [torch.Generator("cpu").manual_seed(1 + index) for index in range(batch)]
        return plain(
            _PROMPT,
            width=side,
            height=side,
            num_inference_steps=steps,
            guidance_scale=_GUIDANCE,
            num_images_per_prompt=batch,
            generator=noise,
            output_type="np",
        ).images


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sdxl_speed", description=__doc__)
    parser.add_argument("weights", type=Path, metavar="WEIGHTS")
    parser.add_argument("--side", type=int, default=1024, help="side of the image in pixels")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 3, 6], choices=(1, 3, 6))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    prepare_environment()
    configure_logging("ERROR")
    print(report(options.weights, side=options.side, steps=options.steps, batches=options.batches, rounds=options.rounds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
