"""Training the VAE, and judging it by what is still read from its pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn

from small_models.training.loop import Stage, train
from small_models.training.sdxl.classifier import classify
from small_models.training.sdxl.networks import make_vae
from small_models.training.shapes import Pixels, Scene, render, sample_scene

_BATCH = 8
_FIGURE_WEIGHT = 4.0  # a pixel of the figure counts so many times more than one of the background
_KL_WEIGHT = 1e-4
_SPREAD = 2.0  # the standard deviation of scaled latents
_ROUGHNESS = 0.03  # of latents that the decoder is trained on alone: those that the UNet makes are not perfect either


def generate_dataset(count: int, seed: int, *, pairs: float, held_out: bool = False) -> tuple[list[Scene], Pixels]:
    """Draws scenes and renders them.

    Returns:
        The scenes, and their pictures, count × 64 × 64 × 3.
    """
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng, pairs=pairs, held_out=held_out) for _ in range(count)]
    return scenes, np.stack([render(scene, rng) for scene in scenes])


def to_tensor(pictures: Pixels) -> Tensor:
    """Count × height × width × 3 → count × 3 × height × width, in -1 … 1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_pictures(decoded: Tensor) -> Pixels:
    """The way back."""
    pixels: NDArray[np.uint8] = decoded.float().add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def train_vae(pictures: Pixels, stage: Stage, device: torch.device, seed: int) -> AutoencoderKL:
    """Trains a VAE on pictures and sets its `scaling_factor`, so that latents have a standard deviation of 2.

    The published noise schedule is for latents that say everything many times over. 8 × 8 of a standard deviation of 1 would be drowned
    for most of its steps, and the UNet would learn little from them. See Hoogeboom et al., "simple diffusion" (2023), on shifted schedules.
    """
    torch.manual_seed(seed)
    vae = make_vae().to(device, memory_format=torch.channels_last)
    trained = train(vae, _vae_loss(vae, pictures, device, seed), stage)
    spread = encode(trained, pictures[:2000]).std()
    trained.register_to_config(scaling_factor=round(_SPREAD / float(spread), 5))
    return trained


def _vae_loss(vae: AutoencoderKL, pictures: Pixels, device: torch.device, seed: int) -> Callable[[int], Tensor]:
    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        batch = to_tensor(pictures[rng.integers(len(pictures), size=_BATCH)]).to(device, memory_format=torch.channels_last)
        posterior = vae.encode(batch).latent_dist
        noise = torch.from_numpy(rng.standard_normal(posterior.mean.shape, np.float32)).to(device)
        decoded = vae.decode(posterior.mean + posterior.std * noise, return_dict=False)[0]
        loss: Tensor = _difference(decoded, batch) + _KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        return loss

    return loss_at


def sharpen(vae: AutoencoderKL, pictures: Pixels, latents: Tensor, stage: Stage, seed: int) -> None:
    """Trains the decoder some more, on latents that stay as they are. Without the encoder a step costs little more than half.

    Args:
        vae: A trained VAE; its decoder is replaced.
        pictures: What it shall show.
        latents: The pictures' unscaled latents.
        stage: The plan.
        seed: Draws batches and noise.
    """
    decoder = nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        chosen = rng.integers(len(pictures), size=_BATCH)
        noise = torch.from_numpy(rng.standard_normal(latents[chosen].shape, np.float32))
        batch = to_tensor(pictures[chosen]).to(vae.device, memory_format=torch.channels_last)
        decoded = decoder[1](decoder[0]((latents[chosen] + _ROUGHNESS * noise).to(vae.device)))
        return _difference(decoded, batch)

    trained = train(decoder, loss_at, stage)
    vae.post_quant_conv, vae.decoder = trained


def _difference(decoded: Tensor, batch: Tensor) -> Tensor:
    weight = 1 + _FIGURE_WEIGHT * _figures(batch)
    return ((decoded - batch).abs() * weight).mean() / weight.mean()


def _figures(batch: Tensor) -> Tensor:
    """1 where a pixel differs from the first of its row, which is background."""
    return ((batch - batch[..., :1]).abs().sum(1, keepdim=True) > 0.15).float()


@torch.inference_mode()
def encode(vae: AutoencoderKL, pictures: Pixels) -> Tensor:
    """The latents' means, unscaled, on the CPU: count × 4 × 8 × 8."""
    batches = torch.split(to_tensor(pictures), 250)
    return torch.cat([vae.encode(batch.to(vae.device)).latent_dist.mean.cpu() for batch in batches])


@torch.inference_mode()
def judge_vae(vae: AutoencoderKL, count: int, seed: int) -> dict[str, float]:
    """The share of each attribute, 0 … 1, that is read right from reconstructions of held-out pictures with one figure."""
    scenes, pictures = generate_dataset(count, seed, pairs=0, held_out=True)
    readings = [classify(picture) for picture in to_pictures(vae.decode(encode(vae, pictures).to(vae.device), return_dict=False)[0])]
    pairs = list(zip(readings, scenes, strict=True))
    return {
        "background": float(np.mean([reading.background == scene.background for reading, scene in pairs])),
        **{
            name: float(np.mean([getattr(reading, name) == getattr(scene.figures[0], name) for reading, scene in pairs]))
            for name in ("color", "shape", "place")
        },
    }


def save_vae(vae: AutoencoderKL, folder: Path) -> None:
    """Writes it in half precision."""
    vae.to(torch.float16).save_pretrained(folder)
