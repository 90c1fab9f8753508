"""Trains the IP-Adapter's image encoder with a linear probe that predicts an image's attributes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from small_models.build_cache import make_world_readable
from small_models.training.loop import TrainingConfig, train
from small_models.training.sdxl.dataset import Scene, generate_dataset
from small_models.training.sdxl.text_encoders import CLASS_COUNTS, attribute_accuracy, attribute_labels, attribute_loss
from small_models.training.shapes import SIZE, Pixels

EMBEDDING_SIZE = 64
"""Dimension of an image embedding."""
_WIDTH = 96
_BATCH = 64
_IMAGES = 16_000
_PAIRS = 0.2  # fraction of images with two figures
_HELD_OUT_IMAGES = 500


def make_image_encoder() -> CLIPVisionModelWithProjection:
    """Returns the image encoder, untrained."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            image_size=SIZE,
            patch_size=8,
            hidden_size=_WIDTH,
            intermediate_size=2 * _WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            projection_dim=EMBEDDING_SIZE,
            initializer_factor=2.0,
        )
    )


def make_image_processor() -> CLIPImageProcessorPil:
    """Returns the preprocessor for images of any size, with the published mean and standard deviation."""
    return CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})


def preprocess(images: Pixels) -> Tensor:
    """Normalizes images of the encoder's own size: count × 64 × 64 × 3 to count × 3 × 64 × 64."""
    processor = make_image_processor()
    scaled = torch.from_numpy(images).float() / 255
    return ((scaled - torch.tensor(processor.image_mean)) / torch.tensor(processor.image_std)).permute(0, 3, 1, 2).contiguous()


@torch.inference_mode()
def embed_images(encoder: Any, images: Pixels) -> Tensor:
    """Returns the image embeddings, count × 64, on the CPU."""
    return torch.cat([encoder(batch.to(encoder.device)).image_embeds.cpu() for batch in torch.split(preprocess(images), 250)])


class _ProbedEncoder(nn.Module):
    """An image encoder with a linear probe on its embedding."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.probe = nn.Linear(EMBEDDING_SIZE, sum(CLASS_COUNTS))

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.probe(self.encoder(pixels).image_embeds)
        return logits


def train_image_encoder(config: TrainingConfig, device: torch.device, seed: int) -> tuple[Any, float]:
    """Trains the image encoder from scratch.

    Returns:
        The frozen encoder, and its probe's accuracy on held-out images, 0 … 1.
    """
    torch.manual_seed(seed)
    untrained = _ProbedEncoder(make_image_encoder()).to(device)
    trained = train(untrained, _loss(untrained, *generate_dataset(_IMAGES, seed, pairs=_PAIRS), seed), config)
    scenes, images = generate_dataset(_HELD_OUT_IMAGES, seed + 1, pairs=_PAIRS, held_out=True)
    logits = trained.probe(embed_images(trained.encoder, images).to(device)).cpu()
    return trained.encoder, attribute_accuracy(logits, _labels(scenes))


def _labels(scenes: list[Scene]) -> Tensor:
    return torch.tensor([attribute_labels(scene) for scene in scenes])


def _loss(encoder: _ProbedEncoder, scenes: list[Scene], images: Pixels, seed: int) -> Callable[[int], Tensor]:
    labels = _labels(scenes)

    def loss_at(step: int) -> Tensor:
        chosen = np.random.default_rng((seed, step)).integers(len(scenes), size=_BATCH)
        device = encoder.probe.weight.device
        return attribute_loss(encoder(preprocess(images[chosen]).to(device)), labels[chosen].to(device))

    return loss_at


def save_image_encoder(encoder: Any, folder: Path) -> None:
    """Saves the encoder in half precision, and its preprocessor's configuration."""
    encoder.to(torch.float16).save_pretrained(folder)
    make_image_processor().save_pretrained(folder)
    make_world_readable(folder)
