"""Helpers for tests of IP-Adapters: requests, reference images, and an add-on library with all published adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from handlers.sdxl.handler import load
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.load import load_sdxl
from shared.jobs.recipe import ImageOutput, Recipe
from shared.media.images import Pixels
from shared.settings import Settings
from small_models.training.sdxl.dataset import Figure, Scene, render
from tests.handlers.conftest import RecordedRun, generate, image_outputs
from tests.handlers.sdxl.files import write_image_encoder, write_ip_adapter

Sdxl = Recipe[SdxlRequest]
URL = "https://a.example/b.png"
PROMPT = "a red circle"
PLAIN, PLUS, FACE = "ip-adapter_sdxl_vit-h", "ip-adapter-plus_sdxl_vit-h", "ip-adapter-plus-face_sdxl_vit-h"


def plain_pipeline(tiny_models: Path) -> Any:
    return load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32)


def write_all_adapters(folder: Path, pipeline: Any) -> Path:
    """Writes all three published adapters, and their image encoder."""
    write_image_encoder(folder / "ip_adapters/image_encoder")
    for seed, name in enumerate((PLAIN, PLUS, FACE)):
        write_ip_adapter(folder / f"ip_adapters/{name}.safetensors", pipeline, plus=name != PLAIN, seed=seed)
    return folder


def recipe_with(tiny_models: Path, addons: Path, **settings: Any) -> Sdxl:
    return load(Settings(sdxl_model=tiny_models / "sdxl", models_dir=addons, device="cpu", **settings))


def image(color: str = "red", place: str = "left", size: tuple[int, int] = (64, 64)) -> Image.Image:
    scene = Scene((Figure("circle", color, place, "large"),), "blue", striped=False)
    return Image.fromarray(render(scene, np.random.default_rng(1))).resize(size)


def adapter_request(
    *others: dict[str, Any], prompt: str = PROMPT, main: str | None = URL, config: dict[str, Any] | None = None, **reference: Any
) -> SdxlRequest:
    settings = {"resolution": "64x64", "steps": 10, "seed": 7, "guidance_scale": 2.0} | (config or {})
    full = [{"image": URL, "strength": 0.8} | other for other in others]
    metadata = {f"reference_{name}": value for name, value in ({"image_url": main, "strength": 0.8} | reference).items()}
    raw = {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": prompt, "negative_prompt": "", "metadata": metadata}
    return SdxlRequest.parse(raw | {"config": settings | {"references": full}}, job_id="j")


def draw(recipe: Sdxl, request: SdxlRequest, *references: Image.Image, recorded: RecordedRun | None = None) -> list[ImageOutput]:
    """The images of a job, with its references in the order of their fields."""
    return image_outputs(generate(recipe, request, recorded, dict(zip(request.references, references, strict=True))))


def pixels(recipe: Sdxl, request: SdxlRequest, *references: Image.Image) -> Pixels:
    return draw(recipe, request, *references)[0].pixels
