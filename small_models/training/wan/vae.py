"""Trains the small WAN's VAE, first on images, then on clips, and evaluates it by classifying its reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample
from numpy.typing import NDArray
from torch import Tensor, nn

from small_models.training.loop import TrainingConfig, train
from small_models.training.shapes import Pixels
from small_models.training.wan.classifier import classify_clip
from small_models.training.wan.dataset import render, sample_scene
from small_models.training.wan.networks import make_vae

_IMAGE_BATCH = 8
_CLIP_BATCH = 4  # with fewer clips a batch has too few colors, and each step undoes the previous one
_FRAMES = 9  # the first frame, a group of four, and a group that has a group before it, as all later groups do
_SHORT_FRAMES = 5
_SHORT_RATIO = 0.75  # fraction of batches of short clips, which cost half
_FIGURE_WEIGHT = 4.0  # additional loss weight of pixels that the figure covers in any frame
_KL_WEIGHT = 1e-4
_STATISTICS_CLIPS = 200
_LATENT_NOISE = 0.05  # added before decoding, since latents from the transformer are imperfect too


def to_tensor(clips: Pixels) -> Tensor:
    """Converts count × frames × height × width × 3 to count × 3 × frames × height × width in -1 … 1."""
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float().div(127.5).sub(1)


def to_clips(decoded: Tensor) -> Pixels:
    """Converts count × 3 × frames × height × width in -1 … 1 to count × frames × height × width × 3."""
    pixels: NDArray[np.uint8] = decoded.float().add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 4, 1).cpu().numpy()
    return pixels


def train_vae(image_config: TrainingConfig, clip_config: TrainingConfig, device: torch.device, seed: int) -> AutoencoderKLWan:
    """Trains a VAE from scratch and sets the mean and standard deviation of its latents.

    Args:
        image_config: The hyperparameters of the image stage.
        clip_config: The hyperparameters of the clip stage.
        device: The device to train on.
        seed: Seeds weights, data and noise.
    """
    torch.manual_seed(seed)
    vae = train_on_images(make_vae().to(device), image_config, seed)
    vae = train_on_clips(vae, clip_config, seed)
    set_latent_statistics(vae, _STATISTICS_CLIPS, seed)
    return vae


def train_on_images(vae: AutoencoderKLWan, config: TrainingConfig, seed: int) -> AutoencoderKLWan:
    """Trains the weights that process a clip's first frame."""
    with single_frame_mode(vae):
        trained = train(vae, _loss(vae, seed, (1,)), config)
    _leave_single_frame_mode(trained)
    return trained


def train_on_clips(vae: AutoencoderKLWan, config: TrainingConfig, seed: int) -> AutoencoderKLWan:
    """Trains all weights on clips, starting from an inflated image VAE, which repeats each latent frame four times."""
    vae.requires_grad_(True)
    inflate_image_vae(vae)
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
    return train(vae, _loss(vae, seed, (_SHORT_FRAMES, _FRAMES)), config)


@contextmanager
def single_frame_mode(vae: AutoencoderKLWan) -> Iterator[None]:
    """Replaces causal 3D convolutions by 2D ones, for single frames: the same result in half the time, since the past is zero padding."""
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d):
            module.forward = MethodType(_single_frame_forward, module)
    try:
        yield
    finally:
        _leave_single_frame_mode(vae)


def _leave_single_frame_mode(vae: AutoencoderKLWan) -> None:
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d):
            vars(module).pop("forward", None)


def _single_frame_forward(self: WanCausalConv3d, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
    assert x.shape[2] == 1
    assert cache_x is None
    padding = (self._padding[2], self._padding[0])
    return nn.functional.conv2d(x[:, :, 0], self.weight[:, :, -1], self.bias, self.stride[1:], padding).unsqueeze(2)


@torch.no_grad()
def inflate_image_vae(vae: AutoencoderKLWan) -> None:
    """Inflates a VAE trained on images: it encodes only the last frame of each group and decodes a group as copies of that frame."""
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d) and module.kernel_size[0] > 1:
            module.weight[:, :, :-1] = 0
        if isinstance(module, WanResample) and hasattr(module, "time_conv"):
            identity = torch.eye(module.dim, device=module.time_conv.weight.device)
            copies = module.time_conv.out_channels // module.dim
            module.time_conv.weight[:, :, -1, 0, 0] = identity.repeat(copies, 1)
            module.time_conv.bias.zero_()


def _loss(vae: AutoencoderKLWan, seed: int, lengths: tuple[int, ...]) -> Callable[[int], Tensor]:
    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, len(lengths), step))
        frames = lengths[0 if rng.random() < _SHORT_RATIO else -1]
        count = _IMAGE_BATCH if frames == 1 else _CLIP_BATCH
        batch = to_tensor(np.stack([render(sample_scene(rng), frames, rng) for _ in range(count)])).to(vae.device)
        posterior = vae.encode(batch).latent_dist
        noise = torch.from_numpy(rng.standard_normal(posterior.mean.shape, np.float32)).to(vae.device)
        latents = posterior.mean + (posterior.var + _LATENT_NOISE**2).sqrt() * noise
        # `decode` clamps its output, which would zero the gradient of out-of-range pixels.
        decoded = vae.decoder(vae.post_quant_conv(latents)) if frames == 1 else vae.decode(latents, return_dict=False)[0]
        loss: Tensor = _reconstruction_loss(decoded, batch) + _KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        return loss

    return loss_at


def _reconstruction_loss(decoded: Tensor, batch: Tensor) -> Tensor:
    figures = (batch - batch[..., :1, :1]).abs().sum(1, keepdim=True) > 0.15
    weight = 1 + _FIGURE_WEIGHT * figures.any(2, keepdim=True).float()
    return ((decoded - batch).abs() * weight).mean() / weight.mean()


@torch.inference_mode()
def encode(vae: AutoencoderKLWan, clips: Tensor) -> Tensor:
    """Returns the posterior means, not normalized, on the CPU.

    Args:
        vae: A VAE.
        clips: Count × 3 × frames × height × width, in -1 … 1.

    Returns:
        Count × 16 × latent frames × 8 × 8.
    """
    return torch.cat([vae.encode(batch.to(vae.device)).latent_dist.mean.cpu() for batch in torch.split(clips, 16)])


def set_latent_statistics(vae: AutoencoderKLWan, count: int, seed: int) -> None:
    """Sets `latents_mean` and `latents_std` to the statistics of encoded clips."""
    rng = np.random.default_rng((seed, 0))
    latents = encode(vae, to_tensor(np.stack([render(sample_scene(rng), _FRAMES, rng) for _ in range(count)])))
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    vae.register_to_config(latents_mean=[round(float(value), 4) for value in mean], latents_std=[round(float(value), 4) for value in std])


def normalize_latents(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Normalizes each channel to zero mean and unit standard deviation, as the transformer expects."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1).to(latents) for values in (vae.config.latents_mean, vae.config.latents_std))
    return (latents - mean) / std


@torch.inference_mode()
def reconstruction_accuracy(vae: AutoencoderKLWan, count: int, seed: int, *, frames: int = _FRAMES) -> dict[str, float]:
    """Returns the classification accuracy of reconstructed held-out clips per attribute, 0 … 1, and their mean error in levels of 255."""
    rng = np.random.default_rng((seed, frames))
    scenes = [sample_scene(rng, held_out=True) for _ in range(count)]
    clips = np.stack([render(scene, frames, rng) for scene in scenes])
    latents = torch.split(encode(vae, to_tensor(clips)), 16)
    decoded = np.concatenate([to_clips(vae.decode(batch.to(vae.device), return_dict=False)[0]) for batch in latents])
    pairs = list(zip(map(classify_clip, decoded), scenes, strict=True))
    accuracies = {
        name: float(np.mean([getattr(prediction, name) == getattr(scene, name) for prediction, scene in pairs]))
        for name in ("background", "color", "shape", "motion")
    }
    return accuracies | {"error": float(np.abs(decoded.astype(np.float32) - clips).mean())}
