"""The small SDXL as attachments are trained on it: loaded in float32, and frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from handlers.sdxl.weights.load import load_sdxl
from small_models.training.loop import Stage, train
from small_models.training.sdxl.text_encoders import TextEncoders
from small_models.training.sdxl.unet import Examples
from small_models.training.sdxl.vae import encode
from small_models.training.shapes import Pixels, Scene


@dataclass(frozen=True)
class FrozenSdxl:
    """What stays as it is while an attachment is trained.

    Attributes:
        unet: The UNet.
        vae: The VAE.
        encoders: The text encoders with their tokenizers.
    """

    unet: Any
    vae: Any
    encoders: TextEncoders

    def examples(self, scenes: list[Scene], pictures: Pixels) -> Examples:
        """Encodes pictures of scenes, count × 64 × 64 × 3."""
        return Examples(encode(self.vae, pictures) * self.vae.config.scaling_factor, scenes)


def load_frozen(folder: Path, device: torch.device) -> FrozenSdxl:
    """Loads the small SDXL from its diffusers folder. What an attachment adds to the UNet stays in it: load it anew for the next one."""
    pipeline = load_sdxl(folder, device, torch.float32)
    encoders = TextEncoders((pipeline.tokenizer, pipeline.tokenizer_2))
    encoders.text_encoder, encoders.text_encoder_2 = pipeline.text_encoder, pipeline.text_encoder_2
    return FrozenSdxl(pipeline.unet, pipeline.vae, encoders)


def train_added(added: nn.Module, loss_at: Callable[[int], Tensor], stage: Stage) -> None:
    """Trains what was added to a frozen network, and leaves the averaged weights in it.

    Args:
        added: The parts that are new, which the frozen network holds as well.
        loss_at: A step's number → its loss.
        stage: The plan.
    """
    averaged = train(added, loss_at, stage)
    added.load_state_dict(averaged.state_dict())
    added.requires_grad_(False)
