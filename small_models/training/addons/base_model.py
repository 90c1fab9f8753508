"""The frozen small SDXL that add-ons are trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from handlers.sdxl.weights.load import load_sdxl
from small_models.training.loop import TrainingConfig, train
from small_models.training.sdxl.dataset import Scene
from small_models.training.sdxl.text_encoders import TextEncoders
from small_models.training.sdxl.unet import LatentDataset
from small_models.training.sdxl.vae import encode
from small_models.training.shapes import Pixels


@dataclass(frozen=True)
class FrozenSdxl:
    """The base model's networks, frozen and in float32.

    Attributes:
        unet: The UNet.
        vae: The VAE.
        encoders: The text encoders with their tokenizers.
    """

    unet: Any
    vae: Any
    encoders: TextEncoders

    def encode_dataset(self, scenes: list[Scene], images: Pixels) -> LatentDataset:
        """Encodes rendered scenes, count × 64 × 64 × 3."""
        return LatentDataset(encode(self.vae, images) * self.vae.config.scaling_factor, scenes)


def load_frozen_sdxl(folder: Path, device: torch.device) -> FrozenSdxl:
    """Loads the small SDXL. Training an add-on modifies its UNet, so every add-on needs a fresh copy."""
    pipeline = load_sdxl(folder, device, torch.float32)
    encoders = TextEncoders((pipeline.tokenizer, pipeline.tokenizer_2))
    encoders.text_encoder, encoders.text_encoder_2 = pipeline.text_encoder, pipeline.text_encoder_2
    return FrozenSdxl(pipeline.unet, pipeline.vae, encoders)


def train_addon(modules: nn.Module, loss_at: Callable[[int], Tensor], config: TrainingConfig) -> None:
    """Trains modules that were added to a frozen network, and loads the EMA weights into them.

    Args:
        modules: The new modules, which the network shares.
        loss_at: Returns the loss of a step from its number.
        config: The hyperparameters.
    """
    ema = train(modules, loss_at, config)
    modules.load_state_dict(ema.state_dict())
    modules.requires_grad_(False)
