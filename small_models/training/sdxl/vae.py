"""Trains the small SDXL's VAE, and evaluates it by classifying its reconstructions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn

from small_models.training.loop import TrainingConfig, train
from small_models.training.sdxl.classifier import classify
from small_models.training.sdxl.dataset import generate_dataset
from small_models.training.sdxl.networks import make_vae
from small_models.training.shapes import Pixels

_BATCH = 8
_FIGURE_WEIGHT = 4.0  # additional loss weight of a figure's pixels
_KL_WEIGHT = 1e-4
_LATENT_STD = 2.0  # of scaled latents
_LATENT_NOISE = 0.03  # added when the decoder is fine-tuned, since latents from the UNet are imperfect too


def to_tensor(images: Pixels) -> Tensor:
    """Converts count × height × width × 3 to count × 3 × height × width in -1 … 1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_images(decoded: Tensor) -> Pixels:
    """Converts count × 3 × height × width in -1 … 1 to count × height × width × 3."""
    pixels: NDArray[np.uint8] = decoded.float().add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def train_vae(images: Pixels, config: TrainingConfig, device: torch.device, seed: int) -> AutoencoderKL:
    """Trains a VAE and sets its `scaling_factor` so that scaled latents have a standard deviation of 2.

    The published noise schedule assumes highly redundant latents. 8 × 8 latents with a standard deviation of 1 would be pure noise for most
    of the schedule, and the UNet would learn little. See Hoogeboom et al., "simple diffusion" (2023), on shifted schedules.
    """
    torch.manual_seed(seed)
    vae = make_vae().to(device, memory_format=torch.channels_last)
    trained = train(vae, _loss(vae, images, device, seed), config)
    std = encode(trained, images[:2000]).std()
    trained.register_to_config(scaling_factor=round(_LATENT_STD / float(std), 5))
    return trained


def _loss(vae: AutoencoderKL, images: Pixels, device: torch.device, seed: int) -> Callable[[int], Tensor]:
    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        batch = to_tensor(images[rng.integers(len(images), size=_BATCH)]).to(device, memory_format=torch.channels_last)
        posterior = vae.encode(batch).latent_dist
        noise = torch.from_numpy(rng.standard_normal(posterior.mean.shape, np.float32)).to(device)
        decoded = vae.decode(posterior.mean + posterior.std * noise, return_dict=False)[0]
        loss: Tensor = _reconstruction_loss(decoded, batch) + _KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        return loss

    return loss_at


def finetune_decoder(vae: AutoencoderKL, images: Pixels, latents: Tensor, config: TrainingConfig, seed: int) -> None:
    """Trains the decoder alone on fixed latents. Without the encoder a step costs little more than half.

    Args:
        vae: A trained VAE, whose decoder is replaced.
        images: The target images.
        latents: The images' unscaled latents.
        config: The hyperparameters.
        seed: Seeds batches and noise.
    """
    decoder = nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        chosen = rng.integers(len(images), size=_BATCH)
        noise = torch.from_numpy(rng.standard_normal(latents[chosen].shape, np.float32))
        batch = to_tensor(images[chosen]).to(vae.device, memory_format=torch.channels_last)
        decoded = decoder[1](decoder[0]((latents[chosen] + _LATENT_NOISE * noise).to(vae.device)))
        return _reconstruction_loss(decoded, batch)

    trained = train(decoder, loss_at, config)
    vae.post_quant_conv, vae.decoder = trained


def _reconstruction_loss(decoded: Tensor, batch: Tensor) -> Tensor:
    weight = 1 + _FIGURE_WEIGHT * _figure_mask(batch)
    return ((decoded - batch).abs() * weight).mean() / weight.mean()


def _figure_mask(batch: Tensor) -> Tensor:
    """Returns 1 where a pixel differs from the first pixel of its row, which is background."""
    return ((batch - batch[..., :1]).abs().sum(1, keepdim=True) > 0.15).float()


@torch.inference_mode()
def encode(vae: AutoencoderKL, images: Pixels) -> Tensor:
    """Returns the posterior means, unscaled, on the CPU: count × 4 × 8 × 8."""
    batches = torch.split(to_tensor(images), 250)
    return torch.cat([vae.encode(batch.to(vae.device)).latent_dist.mean.cpu() for batch in batches])


@torch.inference_mode()
def reconstruction_accuracy(vae: AutoencoderKL, count: int, seed: int) -> dict[str, float]:
    """Returns, for each attribute, the fraction of held-out images whose reconstruction is classified correctly, 0 … 1."""
    scenes, images = generate_dataset(count, seed, pairs=0, held_out=True)
    predictions = [classify(image) for image in to_images(vae.decode(encode(vae, images).to(vae.device), return_dict=False)[0])]
    pairs = list(zip(predictions, scenes, strict=True))
    return {
        "background": float(np.mean([prediction.background == scene.background for prediction, scene in pairs])),
        **{
            name: float(np.mean([getattr(prediction, name) == getattr(scene.figures[0], name) for prediction, scene in pairs]))
            for name in ("color", "shape", "place")
        },
    }


def save_vae(vae: AutoencoderKL, folder: Path) -> None:
    """Saves the VAE in half precision."""
    vae.to(torch.float16).save_pretrained(folder)
