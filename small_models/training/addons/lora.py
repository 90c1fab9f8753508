"""A LoRA that puts stripes behind every figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from small_models.build_cache import make_world_readable
from small_models.training.addons.base_model import FrozenSdxl, train_added
from small_models.training.addons.stripes import plain, striped
from small_models.training.loop import Stage
from small_models.training.sdxl.unet import denoising_loss
from small_models.training.sdxl.vae import generate_dataset
from small_models.training.shapes import render

NAME = "stripes.safetensors"
_RANK = 8
_STRENGTH = 2  # of the LoRA in training; it is written into the weights, so that a file needs no word about it
_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
_BATCH = 16
_PICTURES = 4000
_PAIRS = 0.2  # the share of pictures with two figures


def train_lora(sdxl: FrozenSdxl, folder: Path, stage: Stage, seed: int) -> None:
    """Trains the LoRA and writes it in half precision.

    It learns from pictures that all have stripes, with captions that say nothing of them.

    Args:
        sdxl: What it is trained on. Its UNet keeps the LoRA.
        folder: Where `NAME` goes.
        stage: The plan.
        seed: Draws pictures, weights and noise.
    """
    torch.manual_seed(seed)
    sdxl.unet.add_adapter(LoraConfig(r=_RANK, lora_alpha=_STRENGTH * _RANK, target_modules=_TARGETS))
    added = nn.ModuleList(part for name, part in sdxl.unet.named_modules() if isinstance(part, nn.Linear) and ".lora_" in name)
    rng = np.random.default_rng(seed)
    scenes = [plain(scene) for scene in generate_dataset(_PICTURES, seed, pairs=_PAIRS)[0]]
    pictures = np.stack([render(striped(scene), rng) for scene in scenes])
    loss_at = denoising_loss(sdxl.unet, sdxl.examples(scenes, pictures), sdxl.encoders, seed, batch=_BATCH)
    train_added(added, loss_at, stage)
    weights: dict[str, Tensor] = get_peft_model_state_dict(sdxl.unet)
    layers = {name: (weight * (_STRENGTH if ".lora_B." in name else 1)).to(torch.float16) for name, weight in weights.items()}
    StableDiffusionXLPipeline.save_lora_weights(folder, unet_lora_layers=layers, weight_name=NAME, safe_serialization=True)
    make_world_readable(folder)
