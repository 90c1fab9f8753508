"""Says of finished pictures whether they may not be safe for work. It changes none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from shared.media.images import Pixels
from shared.models.device import size_of
from shared.models.load import load_network
from shared.weights.addons import Shelf

NAME = "safety_checker"


def is_flagged(pixels: Pixels, shelf: Shelf, device: torch.device, dtype: torch.dtype) -> bool:
    """Asks Stable Diffusion's safety checker.

    Args:
        pixels: Height × width × 3.
        shelf: Where it is.
        device: Where it works.
        dtype: In which precision.

    Raises:
        ModelUnavailable: It is not there, or cannot be used.
    """
    checker = shelf.load("safety_checker", NAME, lambda folder: _load(folder, device, dtype), size_of)
    from transformers import CLIPImageProcessorPil

    side = checker.vision_model.config.image_size
    prepare = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    seen = prepare(Image.fromarray(pixels), return_tensors="pt").pixel_values.to(device, dtype)
    # It paints what it flags black; it is given another picture for that.
    _, flags = checker(clip_input=seen, images=[np.zeros((1, 1, 3))])
    return bool(flags[0])


def _load(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    return load_network(StableDiffusionSafetyChecker, folder, name=NAME, device=device, dtype=dtype)
