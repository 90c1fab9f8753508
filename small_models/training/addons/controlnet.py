"""A ControlNet that draws figures where edges are."""

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
from small_models.training.addons.base_model import FrozenSdxl, train_added
from small_models.training.addons.edges import edge_map
from small_models.training.loop import Stage
from small_models.training.sdxl.captions import caption
from small_models.training.sdxl.unet import Noiser, conditions
from small_models.training.sdxl.vae import generate_dataset
from small_models.training.shapes import Pixels, Scene

_CHANNELS = (8, 16, 32, 64)  # of the layers that bring the edges to the size of the latents
_BATCH = 16
_PICTURES = 8000
_PAIRS = 0.2  # the share of pictures with two figures
_EMPTY, _PLACELESS = 0.4, 0.4  # the shares of captions that become empty, and that say nothing of the place
_THRESHOLDS = (20.0, 90.0)  # edge maps differ, so that those of other detectors do as well
_CENTRE = (" in the centre", " in the middle")


def train_controlnet(sdxl: FrozenSdxl, folder: Path, stage: Stage, seed: int) -> None:
    """Trains the ControlNet and writes it in half precision.

    Args:
        sdxl: What it is trained on.
        folder: Where it goes.
        stage: The plan.
        seed: Draws pictures, weights and noise.
    """
    torch.manual_seed(seed)
    controlnet = ControlNetModel.from_unet(sdxl.unet, conditioning_embedding_out_channels=_CHANNELS).train().requires_grad_(True)
    # Edges pass from the first step on. What leaves the ControlNet still starts at zero, so that it begins as the model without it.
    nn.init.xavier_uniform_(controlnet.controlnet_cond_embedding.conv_out.weight)
    scenes, pictures = generate_dataset(_PICTURES, seed, pairs=_PAIRS)
    train_added(controlnet, _loss(controlnet, sdxl, scenes, pictures, seed), stage)
    controlnet.to(torch.float16).save_pretrained(folder)
    make_world_readable(folder)


def to_hint(maps: Pixels) -> Tensor:
    """Edge maps, count × height × width × 3 → count × 3 × height × width, in 0 … 1."""
    return torch.from_numpy(maps).permute(0, 3, 1, 2).float().div(255)


def placeless(scene: Scene, rng: np.random.Generator) -> str:
    """A caption that says nothing of the place of the scene's one figure."""
    text = caption(replace(scene, figures=(replace(scene.figures[0], place="centre"),)), rng)
    for words in _CENTRE:
        text = text.replace(words, "")
    return text


def _loss(controlnet: Any, sdxl: FrozenSdxl, scenes: list[Scene], pictures: Pixels, seed: int) -> Callable[[int], Tensor]:
    noiser, device, latents = Noiser(sdxl.unet.device), sdxl.unet.device, sdxl.examples(scenes, pictures).latents

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        chosen = rng.integers(len(scenes), size=_BATCH)
        given = conditions(sdxl.encoders, [_text(scenes[index], rng) for index in chosen])
        hint = to_hint(np.stack([_edges(pictures[index], rng) for index in chosen])).to(device)
        noisy, times, velocity = noiser(latents[chosen], rng)
        down, mid = controlnet(noisy, times, controlnet_cond=hint, **given)
        predicted = sdxl.unet(noisy, times, down_block_additional_residuals=down, mid_block_additional_residual=mid, **given)[0]
        return nn.functional.mse_loss(predicted, velocity)

    return loss_at


def _text(scene: Scene, rng: np.random.Generator) -> str:
    chance = rng.random()
    if chance < _EMPTY:
        return ""
    return placeless(scene, rng) if chance < _EMPTY + _PLACELESS and len(scene.figures) == 1 else caption(scene, rng)


def _edges(picture: Pixels, rng: np.random.Generator) -> Pixels:
    return edge_map(picture, threshold=float(rng.uniform(*_THRESHOLDS)), width=int(rng.integers(1, 3)))
