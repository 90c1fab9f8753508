"""Stable Diffusion's safety checker: classifies images without changing them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from shared.media.images import Pixels
from shared.models.device import memory_footprint
from shared.models.load import load_network
from shared.weights.addons import AddonLibrary

NAME = "safety_checker"


def is_nsfw(pixels: Pixels, addons: AddonLibrary, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the safety checker flags an image as not safe for work.

    Args:
        pixels: Height × width × 3.
        addons: The library with the safety checker.
        device: Where it runs.
        dtype: Its precision.

    Raises:
        ModelUnavailable: The safety checker is not installed or unusable.
    """
    checker = addons.load("safety_checker", NAME, lambda folder: _load(folder, device, dtype), memory_footprint)
    from transformers import CLIPImageProcessorPil

    side = checker.vision_model.config.image_size
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    clip_input = processor(Image.fromarray(pixels), return_tensors="pt").pixel_values.to(device, dtype)
    # The checker blacks out flagged images; it receives a dummy instead.
    _, flags = checker(clip_input=clip_input, images=[np.zeros((1, 1, 3))])
    return bool(flags[0])


def _load(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    return load_network(StableDiffusionSafetyChecker, folder, name=NAME, device=device, dtype=dtype)
