"""Trains the small WAN's text encoder with linear probes that predict the caption's attributes from every token's state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, UMT5EncoderModel

from small_models.tiny.tokenizers import write_t5
from small_models.training.loop import TrainingConfig, train
from small_models.training.shapes import PALETTE
from small_models.training.wan.captions import caption, tokenizer_corpus
from small_models.training.wan.dataset import MOTIONS, SHAPES, Scene, sample_scene
from small_models.training.wan.networks import TEXT_WIDTH, make_text_encoder

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "background": tuple(PALETTE),
    "color": tuple(PALETTE),
    "shape": SHAPES,
    "motion": tuple(MOTIONS),
}
"""The attributes of a scene, and the classes of each."""

_BATCH = 64


def write_tokenizer(folder: Path) -> Any:
    """Builds the tokenizer, writes it to its folder, and loads it."""
    write_t5(folder, corpus=tokenizer_corpus())
    return AutoTokenizer.from_pretrained(folder)


@dataclass(frozen=True)
class CaptionEncoder:
    """Encodes captions for the transformer.

    Attributes:
        tokenizer: A T5 tokenizer.
        encoder: The trained text encoder.
    """

    tokenizer: Any
    encoder: UMT5EncoderModel

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> Tensor:
        """Returns the states, batch × tokens × width, zero-padded as in WAN's pipelines, with at least one row of padding."""
        ids, mask = tokenize(self.tokenizer, captions)
        states = self.encoder(ids.to(self.encoder.device), mask.to(self.encoder.device)).last_hidden_state
        return nn.functional.pad(states * mask.to(states)[..., None], (0, 0, 0, 1))


class ProbedEncoder(nn.Module):
    """The text encoder with a linear probe for each attribute.

    Args:
        vocabulary: The number of tokens of the tokenizer.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.encoder = make_text_encoder(vocabulary)
        self.probes = nn.ModuleDict({name: nn.Linear(TEXT_WIDTH, len(classes)) for name, classes in ATTRIBUTES.items()})

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Returns the logits of each attribute, batch × tokens × classes."""
        states = self.encoder(ids, mask).last_hidden_state
        return {name: probe(states) for name, probe in self.probes.items()}


def tokenize(tokenizer: Any, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Returns token ids and attention mask, both batch × the length of the longest caption."""
    encoded = tokenizer(captions, padding="longest", return_tensors="pt")
    return encoded.input_ids, encoded.attention_mask


def train_text_encoder(tokenizer: Any, config: TrainingConfig, device: torch.device, seed: int) -> ProbedEncoder:
    """Trains the text encoder and its probes from scratch."""
    torch.manual_seed(seed)
    encoder = ProbedEncoder(len(tokenizer)).to(device)
    return train(encoder, _loss(encoder, tokenizer, device, seed), config)


def _loss(encoder: ProbedEncoder, tokenizer: Any, device: torch.device, seed: int) -> Callable[[int], Tensor]:
    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        scenes = [sample_scene(rng) for _ in range(_BATCH)]
        ids, mask = (part.to(device) for part in tokenize(tokenizer, [caption(scene, rng) for scene in scenes]))
        is_token = mask.bool()
        losses = [
            nn.functional.cross_entropy(logits[is_token], labels(scenes, name).to(device)[:, None].expand_as(is_token)[is_token])
            for name, logits in encoder(ids, mask).items()
        ]
        return torch.stack(losses).mean()

    return loss_at


def labels(scenes: list[Scene], attribute: str) -> Tensor:
    """Returns the class index of each scene's attribute."""
    return torch.tensor([ATTRIBUTES[attribute].index(getattr(scene, attribute)) for scene in scenes])


@torch.inference_mode()
def probe_accuracy(encoder: ProbedEncoder, tokenizer: Any, count: int, seed: int) -> dict[str, float]:
    """Returns, for each attribute, the fraction of held-out captions for which every token is classified correctly, 0 … 1."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng, held_out=True) for _ in range(count)]
    ids, mask = tokenize(tokenizer, [caption(scene, rng) for scene in scenes])
    device = next(encoder.parameters()).device
    predictions = encoder(ids.to(device), mask.to(device))
    return {
        name: float(((logits.argmax(-1).cpu() == labels(scenes, name)[:, None]) | ~mask.bool()).all(1).float().mean())
        for name, logits in predictions.items()
    }
