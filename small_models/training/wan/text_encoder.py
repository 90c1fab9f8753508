"""Training the text encoder: every token's state learns to say what the whole caption means."""

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
from small_models.training.loop import Stage, train
from small_models.training.shapes import PALETTE
from small_models.training.wan.captions import caption, sentences
from small_models.training.wan.dataset import MOTIONS, SHAPES, Scene, sample_scene
from small_models.training.wan.networks import TEXT_WIDTH, make_text_encoder

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "background": tuple(PALETTE),
    "color": tuple(PALETTE),
    "shape": SHAPES,
    "motion": tuple(MOTIONS),
}
"""What a caption tells, and the words for it."""

_BATCH = 64


def write_tokenizer(folder: Path) -> Any:
    """Writes the tokenizer into its folder, and loads it."""
    write_t5(folder, sentences=sentences())
    return AutoTokenizer.from_pretrained(folder)


@dataclass(frozen=True)
class Texts:
    """Turns captions into what the transformer sees.

    Attributes:
        tokenizer: A T5 tokenizer.
        encoder: The trained text encoder.
    """

    tokenizer: Any
    encoder: UMT5EncoderModel

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> Tensor:
        """Batch × tokens × width: zeros after a caption's last token, as WAN's pipelines have it, and at least one row of zeros."""
        ids, mask = tokens(self.tokenizer, captions)
        states = self.encoder(ids.to(self.encoder.device), mask.to(self.encoder.device)).last_hidden_state
        return nn.functional.pad(states * mask.to(states)[..., None], (0, 0, 0, 1))


class Reader(nn.Module):
    """The text encoder with linear heads that read each attribute from its states.

    Args:
        count: The number of tokens of the tokenizer.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.encoder = make_text_encoder(count)
        self.heads = nn.ModuleDict({name: nn.Linear(TEXT_WIDTH, len(words)) for name, words in ATTRIBUTES.items()})

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """For each attribute batch × tokens × words: how likely each token's state makes each word."""
        states = self.encoder(ids, mask).last_hidden_state
        return {name: head(states) for name, head in self.heads.items()}


def tokens(tokenizer: Any, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids and their mask, both batch × the longest caption."""
    made = tokenizer(captions, padding="longest", return_tensors="pt")
    return made.input_ids, made.attention_mask


def train_reader(tokenizer: Any, stage: Stage, device: torch.device, seed: int) -> Reader:
    """Trains the text encoder from nothing, together with its heads."""
    torch.manual_seed(seed)
    reader = Reader(len(tokenizer)).to(device)
    return train(reader, _loss(reader, tokenizer, device, seed), stage)


def _loss(reader: Reader, tokenizer: Any, device: torch.device, seed: int) -> Callable[[int], Tensor]:
    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        scenes = [sample_scene(rng) for _ in range(_BATCH)]
        ids, mask = (part.to(device) for part in tokens(tokenizer, [caption(scene, rng) for scene in scenes]))
        spoken = mask.bool()
        losses = [
            nn.functional.cross_entropy(scores[spoken], wanted(scenes, name).to(device)[:, None].expand_as(spoken)[spoken])
            for name, scores in reader(ids, mask).items()
        ]
        return torch.stack(losses).mean()

    return loss_at


def wanted(scenes: list[Scene], attribute: str) -> Tensor:
    """The number of each scene's word for an attribute."""
    return torch.tensor([ATTRIBUTES[attribute].index(getattr(scene, attribute)) for scene in scenes])


@torch.inference_mode()
def judge_reader(reader: Reader, tokenizer: Any, count: int, seed: int) -> dict[str, float]:
    """The share of held-out captions, 0 … 1, of which every token's state tells the attribute right."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng, held_out=True) for _ in range(count)]
    ids, mask = tokens(tokenizer, [caption(scene, rng) for scene in scenes])
    device = next(reader.parameters()).device
    told = reader(ids.to(device), mask.to(device))
    return {
        name: float(((scores.argmax(-1).cpu() == wanted(scenes, name)[:, None]) | ~mask.bool()).all(1).float().mean())
        for name, scores in told.items()
    }
