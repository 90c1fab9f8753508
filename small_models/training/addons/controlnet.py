"""Trains a ControlNet that places figures according to an edge map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel
from torch import Tensor, nn

from small_models.build_cache import make_world_readable
from small_models.training.addons.base_model import FrozenSdxl, train_addon
from small_models.training.addons.edges import edge_map
from small_models.training.loop import TrainingConfig
from small_models.training.sdxl.captions import caption
from small_models.training.sdxl.dataset import Scene, generate_dataset
from small_models.training.sdxl.unet import NoiseSampler, text_conditioning
from small_models.training.shapes import Pixels

_CHANNELS = (8, 16, 32, 64)  # of the conditioning embedding, which downsamples edge maps to the size of the latents
_BATCH = 16
_IMAGES = 8000
_PAIRS = 0.2  # fraction of images with two figures
_CAPTION_DROPOUT, _PLACE_DROPOUT = 0.4, 0.4  # fractions of empty captions, and of captions without a place
_THRESHOLDS = (20.0, 90.0)  # randomized, so that edge maps of other detectors work as well
_CENTER_PHRASES = (" in the centre", " in the middle")


def train_controlnet(sdxl: FrozenSdxl, folder: Path, config: TrainingConfig, seed: int) -> None:
    """Trains the ControlNet and saves it in half precision.

    Args:
        sdxl: The base model.
        folder: The target folder.
        config: The hyperparameters.
        seed: Seeds data, weights and noise.
    """
    torch.manual_seed(seed)
    controlnet = ControlNetModel.from_unet(sdxl.unet, conditioning_embedding_out_channels=_CHANNELS).train().requires_grad_(True)
    # Initialize the last layer of the conditioning embedding, so that edges have an effect from the first step on. The zero-initialized
    # output convolutions still make the untrained ControlNet an identity.
    nn.init.xavier_uniform_(controlnet.controlnet_cond_embedding.conv_out.weight)
    scenes, images = generate_dataset(_IMAGES, seed, pairs=_PAIRS)
    train_addon(controlnet, _loss(controlnet, sdxl, scenes, images, seed), config)
    controlnet.to(torch.float16).save_pretrained(folder)
    make_world_readable(folder)


def to_conditioning(edge_maps: Pixels) -> Tensor:
    """Converts edge maps, count × height × width × 3, to count × 3 × height × width in 0 … 1."""
    return torch.from_numpy(edge_maps).permute(0, 3, 1, 2).float().div(255)


def caption_without_place(scene: Scene, rng: np.random.Generator) -> str:
    """Describes a scene with one figure without its place."""
    text = caption(replace(scene, figures=(replace(scene.figures[0], place="centre"),)), rng)
    for phrase in _CENTER_PHRASES:
        text = text.replace(phrase, "")
    return text


def _loss(controlnet: Any, sdxl: FrozenSdxl, scenes: list[Scene], images: Pixels, seed: int) -> Callable[[int], Tensor]:
    add_noise, device, latents = NoiseSampler(sdxl.unet.device), sdxl.unet.device, sdxl.encode_dataset(scenes, images).latents

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        chosen = rng.integers(len(scenes), size=_BATCH)
        conditioning = text_conditioning(sdxl.encoders, [_sample_caption(scenes[index], rng) for index in chosen])
        edges = to_conditioning(np.stack([_sample_edge_map(images[index], rng) for index in chosen])).to(device)
        noisy, timesteps, velocity = add_noise(latents[chosen], rng)
        down, mid = controlnet(noisy, timesteps, controlnet_cond=edges, **conditioning)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        return nn.functional.mse_loss(sdxl.unet(noisy, timesteps, **residuals, **conditioning)[0], velocity)

    return loss_at


def _sample_caption(scene: Scene, rng: np.random.Generator) -> str:
    draw = rng.random()
    if draw < _CAPTION_DROPOUT:
        return ""
    return (
        caption_without_place(scene, rng) if draw < _CAPTION_DROPOUT + _PLACE_DROPOUT and len(scene.figures) == 1 else caption(scene, rng)
    )


def _sample_edge_map(image: Pixels, rng: np.random.Generator) -> Pixels:
    return edge_map(image, threshold=float(rng.uniform(*_THRESHOLDS)), width=int(rng.integers(1, 3)))
