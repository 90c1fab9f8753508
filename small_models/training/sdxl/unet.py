"""Training the UNet, on latents that were computed beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from small_models.training.loop import Stage, train
from small_models.training.sdxl.captions import caption
from small_models.training.sdxl.networks import make_scheduler, make_unet
from small_models.training.sdxl.text_encoders import TextEncoders
from small_models.training.shapes import SIZE, Scene

_BATCH = 48
_DROPPED = 0.1  # the share of captions that become empty, for guidance
_TIMES = 1000  # of the noise schedule


@dataclass(frozen=True)
class Examples:
    """What the UNet learns from.

    Attributes:
        latents: Count × 4 × 8 × 8, scaled.
        scenes: What each shows.
    """

    latents: Tensor
    scenes: list[Scene]


def train_unet(examples: Examples, encoders: TextEncoders, stage: Stage, device: torch.device, seed: int) -> UNet2DConditionModel:
    """Trains the UNet from nothing, on the states of text encoders that stay as they are."""
    torch.manual_seed(seed)
    unet = make_unet().to(device)
    return train(unet, denoising_loss(unet, examples, encoders, seed, batch=_BATCH), stage)


def denoising_loss(unet: Any, examples: Examples, encoders: TextEncoders, seed: int, *, batch: int) -> Callable[[int], Tensor]:
    """What is trained by: a step's number → how far the UNet's velocities are from the right ones. A tenth of the captions is empty."""
    noiser = Noiser(unet.device)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        chosen = rng.integers(len(examples.scenes), size=batch)
        texts = ["" if rng.random() < _DROPPED else caption(examples.scenes[index], rng) for index in chosen]
        noisy, times, velocity = noiser(examples.latents[chosen], rng)
        return nn.functional.mse_loss(unet(noisy, times, **conditions(encoders, texts))[0], velocity)

    return loss_at


class Noiser:
    """Adds noise to latents.

    Args:
        device: Where the noisy latents go.
    """

    def __init__(self, device: torch.device) -> None:
        self._kept = make_scheduler().alphas_cumprod.to(device)

    def __call__(self, latents: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Adds noise, at one time from each of as many equal stretches as there are latents: a batch's loss then varies less.

        Returns:
            The noisy latents, their times in 0 … 999, and the velocities that the UNet shall predict.
        """
        clean = latents.to(self._kept.device)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32)).to(clean.device)
        times = torch.from_numpy((np.arange(len(clean)) + rng.random(len(clean))) * _TIMES / len(clean)).long().to(clean.device)
        signal = self._kept[times].view(-1, 1, 1, 1)
        return signal.sqrt() * clean + (1 - signal).sqrt() * noise, times, signal.sqrt() * noise - (1 - signal).sqrt() * clean


@torch.no_grad()
def conditions(encoders: TextEncoders, texts: list[str]) -> dict[str, Any]:
    """The UNet's arguments beside latents and times, for captions of pictures of full size."""
    states, pooled, _ = encoders(texts)
    sizes = torch.tensor([SIZE, SIZE, 0, 0, SIZE, SIZE], device=states.device).repeat(len(texts), 1)
    return {"encoder_hidden_states": states, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}, "return_dict": False}


def save_denoiser(unet: UNet2DConditionModel, encoders: TextEncoders, folder: Path) -> None:
    """Writes the UNet, the text encoders and the scheduler in half precision."""
    parts = {"unet": unet, "text_encoder": encoders.text_encoder, "text_encoder_2": encoders.text_encoder_2}
    for name, part in parts.items():
        part.to(torch.float16).save_pretrained(folder / name)
    make_scheduler().save_pretrained(folder / "scheduler")
