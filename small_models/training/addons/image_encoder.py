"""An image encoder that learns to tell what a picture shows, as the text encoders learn it from captions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from small_models.build_cache import make_world_readable
from small_models.training.loop import Stage, train
from small_models.training.sdxl.text_encoders import ANSWERS, answers, rightness, wrongness
from small_models.training.sdxl.vae import generate_dataset
from small_models.training.shapes import SIZE, Pixels, Scene

PROJECTED = 64
"""Numbers that a picture becomes."""
_WIDTH = 96
_BATCH = 64
_PICTURES = 16_000
_PAIRS = 0.2  # the share of pictures with two figures
_JUDGED = 500


def make_image_encoder() -> CLIPVisionModelWithProjection:
    """The image encoder, untrained."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            image_size=SIZE,
            patch_size=8,
            hidden_size=_WIDTH,
            intermediate_size=2 * _WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            projection_dim=PROJECTED,
            initializer_factor=2.0,
        )
    )


def make_image_processor() -> CLIPImageProcessorPil:
    """What makes the encoder's input from pictures of any size, with the published mean and deviation."""
    return CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})


def prepare(pictures: Pixels) -> Tensor:
    """The encoder's input from pictures of its own size: count × 64 × 64 × 3 → count × 3 × 64 × 64."""
    processor = make_image_processor()
    scaled = torch.from_numpy(pictures).float() / 255
    return ((scaled - torch.tensor(processor.image_mean)) / torch.tensor(processor.image_std)).permute(0, 3, 1, 2).contiguous()


@torch.inference_mode()
def embed(encoder: Any, pictures: Pixels) -> Tensor:
    """What the encoder makes of pictures, count × 64, on the CPU."""
    return torch.cat([encoder(batch.to(encoder.device)).image_embeds.cpu() for batch in torch.split(prepare(pictures), 250)])


class _Examiner(nn.Module):
    """An image encoder with a linear answer to each question."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(PROJECTED, sum(ANSWERS))

    def forward(self, pixels: Tensor) -> Tensor:
        scores: Tensor = self.head(self.encoder(pixels).image_embeds)
        return scores


def train_image_encoder(stage: Stage, device: torch.device, seed: int) -> tuple[Any, float]:
    """Trains the image encoder from nothing.

    Returns:
        The encoder, frozen, and the share of questions about held-out pictures that are answered right, 0 … 1.
    """
    torch.manual_seed(seed)
    untrained = _Examiner(make_image_encoder()).to(device)
    examiner = train(untrained, _loss(untrained, *generate_dataset(_PICTURES, seed, pairs=_PAIRS), seed), stage)
    scenes, pictures = generate_dataset(_JUDGED, seed + 1, pairs=_PAIRS, held_out=True)
    return examiner.encoder, rightness(examiner.head(embed(examiner.encoder, pictures).to(device)).cpu(), _right(scenes))


def _right(scenes: list[Scene]) -> Tensor:
    return torch.tensor([answers(scene) for scene in scenes])


def _loss(examiner: _Examiner, scenes: list[Scene], pictures: Pixels, seed: int) -> Callable[[int], Tensor]:
    right = _right(scenes)

    def loss_at(step: int) -> Tensor:
        chosen = np.random.default_rng((seed, step)).integers(len(scenes), size=_BATCH)
        device = examiner.head.weight.device
        return wrongness(examiner(prepare(pictures[chosen]).to(device)), right[chosen].to(device))

    return loss_at


def save_image_encoder(encoder: Any, folder: Path) -> None:
    """Writes it in half precision, with the settings of its processor."""
    encoder.to(torch.float16).save_pretrained(folder)
    make_image_processor().save_pretrained(folder)
    make_world_readable(folder)
