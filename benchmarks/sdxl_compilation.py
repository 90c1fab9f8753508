"""Compares a step of SDXL's full-size UNet, compiled and with the channels last, with the eager one.

`python -m benchmarks.sdxl_compilation`. On the CPU, in bfloat16, with random weights, for one image of 128 × 128 with guidance; both sides
alternate in one process. It takes 7 GB and some minutes, so `make performance` does not run it. The result is kept in
`benchmarks/results.json`.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from handlers.sdxl.compilation import UNET_BLOCKS
from handlers.sdxl.weights.checkpoint import PUBLISHED_CONFIG
from shared.models.compilation import CompiledBlocks

_LATENT_SIDE = 16
_ROUNDS = 3


@dataclass(frozen=True)
class Compared:
    """A step of the UNet.

    Attributes:
        ratio: Seconds of the eager step divided by those of the compiled one: the median of the rounds.
        difference: The root mean square of the difference of both results, divided by that of the eager one.
        layout: The same for the eager step with the channels last: the rounding of other kernels.
        graphs_seconds: Seconds for compiling all blocks.
        load: The machine's load at the end.
    """

    ratio: float
    difference: float
    layout: float
    graphs_seconds: float
    load: float


@torch.inference_mode()
def measure() -> Compared:
    """Runs the comparison."""
    unet, inputs = full_size_unet(), inputs_of_a_step()
    call = partial(unet, **inputs, return_dict=False)
    eager = call()[0]
    with torch.inference_mode(False):
        unet.to(memory_format=torch.channels_last)
    last = call()[0]
    blocks = CompiledBlocks("unet", unet, UNET_BLOCKS, [call])
    start = time.perf_counter()
    for piece in blocks.pieces():
        piece()
    compiling = time.perf_counter() - start
    with blocks.enabled():
        compiled = call()[0]
    ratios = []
    for _ in range(_ROUNDS):
        with torch.inference_mode(False):
            unet.to(memory_format=torch.contiguous_format)
        slow = _seconds(call)
        with torch.inference_mode(False):
            unet.to(memory_format=torch.channels_last)
        with blocks.enabled() as is_enabled:
            assert is_enabled
            ratios.append(slow / _seconds(call))
    return Compared(statistics.median(ratios), _relative(compiled, eager), _relative(last, eager), compiling, round(os.getloadavg()[0], 1))


def full_size_unet() -> Any:
    """Returns the published UNet with random weights, in bfloat16."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(PUBLISHED_CONFIG / "unet")).to(torch.bfloat16)
    with torch.inference_mode(False):
        unet = unet.to_empty(device="cpu").requires_grad_(False).eval()
        for name, parameter in unet.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return unet


def inputs_of_a_step() -> dict[str, Any]:
    """Returns the arguments of the UNet for one image with guidance, in bfloat16."""
    generator = torch.Generator().manual_seed(1)
    random = partial(torch.randn, generator=generator, dtype=torch.bfloat16)
    return {
        "sample": random(2, 4, _LATENT_SIDE, _LATENT_SIDE),
        "timestep": torch.tensor(500.0),
        "encoder_hidden_states": random(2, 77, 2048),
        "added_cond_kwargs": {"text_embeds": random(2, 1280), "time_ids": random(2, 6)},
    }


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _relative(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).square().mean().sqrt() / other.float().square().mean().sqrt())


def main() -> None:
    """Measures, and writes the result to the results."""
    from benchmarks.report import keep

    compared = measure()
    print(compared)
    keep(sdxl_compilation=asdict(compared))


if __name__ == "__main__":
    main()
