"""Trains the small SDXL's UNet on precomputed latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from small_models.training.loop import TrainingConfig, train
from small_models.training.sdxl.captions import caption
from small_models.training.sdxl.dataset import Scene
from small_models.training.sdxl.networks import make_scheduler, make_unet
from small_models.training.sdxl.text_encoders import TextEncoders
from small_models.training.shapes import SIZE

_BATCH = 48
_CAPTION_DROPOUT = 0.1  # fraction of empty captions, for classifier-free guidance
_TIMESTEPS = 1000


@dataclass(frozen=True)
class LatentDataset:
    """Encoded images and their scenes.

    Attributes:
        latents: Count × 4 × 8 × 8, scaled.
        scenes: The scene of each.
    """

    latents: Tensor
    scenes: list[Scene]


def train_unet(
    dataset: LatentDataset, encoders: TextEncoders, config: TrainingConfig, device: torch.device, seed: int
) -> UNet2DConditionModel:
    """Trains the UNet from scratch on the states of frozen text encoders."""
    torch.manual_seed(seed)
    unet = make_unet().to(device)
    return train(unet, denoising_loss(unet, dataset, encoders, seed, batch=_BATCH), config)


def denoising_loss(unet: Any, dataset: LatentDataset, encoders: TextEncoders, seed: int, *, batch: int) -> Callable[[int], Tensor]:
    """Returns the v-prediction loss as a function of the step. A tenth of the captions is empty."""
    add_noise = NoiseSampler(unet.device)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        chosen = rng.integers(len(dataset.scenes), size=batch)
        texts = ["" if rng.random() < _CAPTION_DROPOUT else caption(dataset.scenes[index], rng) for index in chosen]
        noisy, timesteps, velocity = add_noise(dataset.latents[chosen], rng)
        return nn.functional.mse_loss(unet(noisy, timesteps, **text_conditioning(encoders, texts))[0], velocity)

    return loss_at


class NoiseSampler:
    """Adds noise to latents at random timesteps.

    Args:
        device: The device of the noisy latents.
    """

    def __init__(self, device: torch.device) -> None:
        self._alphas_cumprod = make_scheduler().alphas_cumprod.to(device)

    def __call__(self, latents: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Adds noise with stratified timesteps, which reduces the variance of a batch's loss.

        Returns:
            The noisy latents, their timesteps in 0 … 999, and the velocities to predict.
        """
        clean = latents.to(self._alphas_cumprod.device)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32)).to(clean.device)
        strata = (np.arange(len(clean)) + rng.random(len(clean))) * _TIMESTEPS / len(clean)
        timesteps = torch.from_numpy(strata).long().to(clean.device)
        signal = self._alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return signal.sqrt() * clean + (1 - signal).sqrt() * noise, timesteps, signal.sqrt() * noise - (1 - signal).sqrt() * clean


@torch.no_grad()
def text_conditioning(encoders: TextEncoders, texts: list[str]) -> dict[str, Any]:
    """Returns the UNet's conditioning arguments for captions of full-size images."""
    states, pooled, _ = encoders(texts)
    sizes = torch.tensor([SIZE, SIZE, 0, 0, SIZE, SIZE], device=states.device).repeat(len(texts), 1)
    return {"encoder_hidden_states": states, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}, "return_dict": False}


def save_unet_and_text_encoders(unet: UNet2DConditionModel, encoders: TextEncoders, folder: Path) -> None:
    """Saves the UNet and the text encoders in half precision, and the scheduler."""
    parts = {"unet": unet, "text_encoder": encoders.text_encoder, "text_encoder_2": encoders.text_encoder_2}
    for name, part in parts.items():
        part.to(torch.float16).save_pretrained(folder / name)
    make_scheduler().save_pretrained(folder / "scheduler")
