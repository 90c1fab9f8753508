"""Twenty different jobs of a minimal SDXL, with the UNet's transformer blocks compiled by inductor: writes what was compiled, as JSON.

`python -m tests.handlers.sdxl.compiled_jobs JOBS`: how many of the jobs are run, each also uncompiled.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch._dynamo.utils import counters

from benchmarks.full_size_addons import FullSizeAddons
from benchmarks.sdxl_networks import controlnet, lora, minimal
from handlers.sdxl.compilation import UNET_BLOCKS, compiled_networks
from handlers.sdxl.features.lora import lora_target
from handlers.sdxl.recipe import SdxlRecipe
from shared.media.images import Pixels
from shared.models.compilation import CompiledBlocks
from shared.telemetry import configure_logging
from tests.handlers.conftest import generate, image_outputs, sdxl

URL = "https://a.example/b.png"
LORA = {"loras": [{"name": "style", "scale": 0.7}]}
CONTROL = {"controls": [{"kind": "depth", "image": URL, "prepared": True}]}
REFERENCE = {"image": URL, "denoise_strength": 0.6, "steps": 2}
KINDS: list[dict[str, Any]] = [
    {},
    {"resolution": "72x64"},
    {"num_images": 3},
    LORA,
    CONTROL,
    {"prompt": "a red circle on a white background, " * 12},
    REFERENCE,
    LORA | CONTROL | {"num_images": 6},
    {"resolution": "64x96"} | LORA,
    {"clip_skip": 1},
]
REQUESTS = [kind | guidance for kind in KINDS for guidance in ({}, {"guidance_scale": 1.0})]


def main(jobs: int) -> None:
    """Compiles, runs the jobs and writes the figures."""
    configure_logging("ERROR")
    torch.manual_seed(0)
    pipeline = minimal(torch.device("cpu"))
    for network in (pipeline.unet, pipeline.vae):
        network.to(memory_format=torch.channels_last)
    # The C++ compiler takes ten seconds for a graph, of which the residual blocks would have nine.
    networks = [CompiledBlocks("unet", pipeline.unet, UNET_BLOCKS[:1], compiled_networks(pipeline)[0]._calls)]
    addons = addons_for(pipeline)
    recipe, plain = SdxlRecipe(pipeline, addons, compiled_networks=networks), SdxlRecipe(pipeline, addons)
    for piece in recipe.idle_work():
        piece()
    compiled = graphs()
    differences = [difference for request in REQUESTS[:jobs] for difference in compare(recipe, plain, request)]
    cache = {kind: counters["inductor"][f"fxgraph_cache_{kind}"] for kind in ("hit", "miss")}
    figures = {"compiled": compiled, "after_jobs": graphs(), "images": len(differences), "most": max(differences), "cache": cache}
    sys.stdout.write(f"{json.dumps(figures)}\n")


def graphs() -> int:
    """The graphs that dynamo has handed to the compiler in this process."""
    return int(counters["stats"]["unique_graphs"])


def compare(recipe: SdxlRecipe, plain: SdxlRecipe, config: dict[str, Any]) -> Iterator[int]:
    """Yields the largest difference in levels for each image of a job, which must have used compiled blocks."""
    for one, other in zip(images(recipe, config, compiled=True), images(plain, config, compiled=False), strict=True):
        yield int(np.abs(one.astype(int) - other).max())


def images(recipe: SdxlRecipe, config: dict[str, Any], *, compiled: bool) -> list[Pixels]:
    """The images of a job. Its metadata must say whether compiled blocks were used."""
    settings: dict[str, Any] = {"scheduler": "lcm", "steps": 1} | config
    request = sdxl(**settings)
    reference = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    made = image_outputs(generate(recipe, request, references=dict.fromkeys(request.references, reference)))
    assert all(image.metadata["accelerated_by"] == (["compiled_blocks"] if compiled else []) for image in made)
    return [image.pixels for image in made]


def addons_for(pipeline: Any) -> FullSizeAddons:
    """A LoRA and a ControlNet that change the images: new ones are zero where they act."""
    library = FullSizeAddons(
        {("loras", "style"): lambda: lora(lora_target(pipeline)), ("controlnets", "depth"): lambda: controlnet(pipeline.unet)}
    )
    networks = library.build_all()
    for update in networks["loras", "style"].updates.values():
        for tensor in update.tensors():
            tensor.normal_(std=0.1)
    for parameter in networks["controlnets", "depth"].controlnet_mid_block.parameters():
        parameter.normal_(std=0.1)
    return library


if __name__ == "__main__":
    main(int(sys.argv[1]))
