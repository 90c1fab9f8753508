"""Trains a LoRA that adds stripes to the background of every image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from small_models.build_cache import make_world_readable
from small_models.training.addons.base_model import FrozenSdxl, train_addon
from small_models.training.addons.stripes import with_plain_background, with_stripes
from small_models.training.loop import TrainingConfig
from small_models.training.sdxl.dataset import generate_dataset, render
from small_models.training.sdxl.unet import denoising_loss

FILE_NAME = "stripes.safetensors"
_RANK = 8
_SCALE = 2  # alpha / rank during training; merged into the weights, so that the file needs no alpha
_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
_BATCH = 16
_IMAGES = 4000
_PAIRS = 0.2  # fraction of images with two figures


def train_lora(sdxl: FrozenSdxl, folder: Path, config: TrainingConfig, seed: int) -> None:
    """Trains the LoRA and saves it in half precision.

    All training images have stripes, and none of their captions mentions them.

    Args:
        sdxl: The base model; the LoRA remains in its UNet.
        folder: The folder for `FILE_NAME`.
        config: The hyperparameters.
        seed: Seeds data, weights and noise.
    """
    torch.manual_seed(seed)
    sdxl.unet.add_adapter(LoraConfig(r=_RANK, lora_alpha=_SCALE * _RANK, target_modules=_TARGETS))
    lora = nn.ModuleList(module for name, module in sdxl.unet.named_modules() if isinstance(module, nn.Linear) and ".lora_" in name)
    rng = np.random.default_rng(seed)
    scenes = [with_plain_background(scene) for scene in generate_dataset(_IMAGES, seed, pairs=_PAIRS)[0]]
    images = np.stack([render(with_stripes(scene), rng) for scene in scenes])
    loss_at = denoising_loss(sdxl.unet, sdxl.encode_dataset(scenes, images), sdxl.encoders, seed, batch=_BATCH)
    train_addon(lora, loss_at, config)
    weights: dict[str, Tensor] = get_peft_model_state_dict(sdxl.unet)
    layers = {name: (weight * (_SCALE if ".lora_B." in name else 1)).to(torch.float16) for name, weight in weights.items()}
    StableDiffusionXLPipeline.save_lora_weights(folder, unet_lora_layers=layers, weight_name=FILE_NAME, safe_serialization=True)
    make_world_readable(folder)
