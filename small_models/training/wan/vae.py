"""Training the VAE: first on single pictures, then on clips; and judging it by what is still read from its clips."""

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

from small_models.training.loop import Stage, train
from small_models.training.shapes import Pixels
from small_models.training.wan.classifier import classify_clip
from small_models.training.wan.dataset import render, sample_scene
from small_models.training.wan.networks import make_vae

_PICTURES = 8  # in a batch
_CLIPS = 4  # fewer are of too few colors: each step then undoes another's
_FRAMES = 9  # a first frame, a first group of four, and one that has a group before it, as all that follow
_SHORT_FRAMES = 5
_SHORT = 0.75  # the share of batches of short clips, which cost half
_FIGURE_WEIGHT = 4.0  # where the figure is at some time, a pixel counts so many times more than elsewhere
_KL_WEIGHT = 1e-4
_ROUGHNESS = 0.05  # noise on the latents that are decoded: those that the transformer makes are not perfect either


def to_tensor(clips: Pixels) -> Tensor:
    """Count × frames × height × width × 3 → count × 3 × frames × height × width, in -1 … 1."""
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float().div(127.5).sub(1)


def to_clips(decoded: Tensor) -> Pixels:
    """The way back."""
    pixels: NDArray[np.uint8] = decoded.float().add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 4, 1).cpu().numpy()
    return pixels


def train_vae(pictures: Stage, clips: Stage, device: torch.device, seed: int) -> AutoencoderKLWan:
    """Trains a VAE from nothing and sets the mean and the deviation of its latents.

    Args:
        pictures: The plan for single pictures.
        clips: The plan for clips.
        device: Where.
        seed: Draws weights, pictures, clips and noise.
    """
    torch.manual_seed(seed)
    vae = train_on_pictures(make_vae().to(device), pictures, seed)
    vae = train_on_clips(vae, clips, seed)
    measure_latents(vae, 200, seed)
    return vae


def train_on_pictures(vae: AutoencoderKLWan, stage: Stage, seed: int) -> AutoencoderKLWan:
    """Trains what makes pictures: a clip's first frame goes through the same weights."""
    with flat(vae):
        trained = train(vae, _loss(vae, seed, (1,)), stage)
    _unflatten(trained)
    return trained


def train_on_clips(vae: AutoencoderKLWan, stage: Stage, seed: int) -> AutoencoderKLWan:
    """Trains everything on clips. It begins with a VAE that was trained on pictures, and so shows each clip's frames four times."""
    vae.requires_grad_(True)
    hold(vae)
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
    return train(vae, _loss(vae, seed, (_SHORT_FRAMES, _FRAMES)), stage)


@contextmanager
def flat(vae: AutoencoderKLWan) -> Iterator[None]:
    """For clips of one frame, skips what causal convolutions multiply by the zeros before it: the same result in half the time."""
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d):
            module.forward = MethodType(_flat_forward, module)
    try:
        yield
    finally:
        _unflatten(vae)


def _unflatten(vae: AutoencoderKLWan) -> None:
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d):
            vars(module).pop("forward", None)


def _flat_forward(self: WanCausalConv3d, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
    assert x.shape[2] == 1
    assert cache_x is None
    padding = (self._padding[2], self._padding[0])
    return nn.functional.conv2d(x[:, :, 0], self.weight[:, :, -1], self.bias, self.stride[1:], padding).unsqueeze(2)


@torch.no_grad()
def hold(vae: AutoencoderKLWan) -> None:
    """Makes a VAE that was trained on pictures ignore all frames but the last of each group, and show that one for the whole group."""
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d) and module.kernel_size[0] > 1:
            module.weight[:, :, :-1] = 0
        if isinstance(module, WanResample) and hasattr(module, "time_conv"):
            same = torch.eye(module.dim, device=module.time_conv.weight.device)
            copies = module.time_conv.out_channels // module.dim
            module.time_conv.weight[:, :, -1, 0, 0] = same.repeat(copies, 1)
            module.time_conv.bias.zero_()


def _loss(vae: AutoencoderKLWan, seed: int, lengths: tuple[int, ...]) -> Callable[[int], Tensor]:
    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, len(lengths), step))
        frames = lengths[0 if rng.random() < _SHORT else -1]
        count = _PICTURES if frames == 1 else _CLIPS
        batch = to_tensor(np.stack([render(sample_scene(rng), frames, rng) for _ in range(count)])).to(vae.device)
        posterior = vae.encode(batch).latent_dist
        noise = torch.from_numpy(rng.standard_normal(posterior.mean.shape, np.float32)).to(vae.device)
        rough = posterior.mean + (posterior.var + _ROUGHNESS**2).sqrt() * noise
        # Decoding cuts off what is beyond black and white, and with it what would lead back.
        decoded = vae.decoder(vae.post_quant_conv(rough)) if frames == 1 else vae.decode(rough, return_dict=False)[0]
        loss: Tensor = _difference(decoded, batch) + _KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        return loss

    return loss_at


def _difference(decoded: Tensor, batch: Tensor) -> Tensor:
    figures = (batch - batch[..., :1, :1]).abs().sum(1, keepdim=True) > 0.15
    weight = 1 + _FIGURE_WEIGHT * figures.any(2, keepdim=True).float()
    return ((decoded - batch).abs() * weight).mean() / weight.mean()


@torch.inference_mode()
def encode(vae: AutoencoderKLWan, clips: Tensor) -> Tensor:
    """The latents' means, unscaled, on the CPU.

    Args:
        vae: A VAE.
        clips: Count × 3 × frames × height × width, in -1 … 1.

    Returns:
        Count × 16 × latent frames × 8 × 8.
    """
    return torch.cat([vae.encode(batch.to(vae.device)).latent_dist.mean.cpu() for batch in torch.split(clips, 16)])


def measure_latents(vae: AutoencoderKLWan, count: int, seed: int) -> None:
    """Sets `latents_mean` and `latents_std` to what the latents of clips have."""
    rng = np.random.default_rng((seed, 0))
    latents = encode(vae, to_tensor(np.stack([render(sample_scene(rng), _FRAMES, rng) for _ in range(count)])))
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    vae.register_to_config(latents_mean=[round(float(value), 4) for value in mean], latents_std=[round(float(value), 4) for value in std])


def scale(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Latents as the transformer knows them: each channel with a mean of 0 and a standard deviation of 1."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1).to(latents) for values in (vae.config.latents_mean, vae.config.latents_std))
    return (latents - mean) / std


@torch.inference_mode()
def judge_vae(vae: AutoencoderKLWan, count: int, seed: int, *, frames: int = _FRAMES) -> dict[str, float]:
    """What is read right from reconstructions of held-out clips, as shares, 0 … 1; and their mean error, in levels of 255."""
    rng = np.random.default_rng((seed, frames))
    scenes = [sample_scene(rng, held_out=True) for _ in range(count)]
    clips = np.stack([render(scene, frames, rng) for scene in scenes])
    latents = torch.split(encode(vae, to_tensor(clips)), 16)
    decoded = np.concatenate([to_clips(vae.decode(batch.to(vae.device), return_dict=False)[0]) for batch in latents])
    pairs = list(zip(map(classify_clip, decoded), scenes, strict=True))
    right = {
        name: float(np.mean([getattr(reading, name) == getattr(scene, name) for reading, scene in pairs]))
        for name in ("background", "color", "shape", "motion")
    }
    return right | {"error": float(np.abs(decoded.astype(np.float32) - clips).mean())}
