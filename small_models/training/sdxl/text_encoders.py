"""Trains both text encoders with linear probes that predict a caption's attributes, before the UNet is trained.

Shapes, colors and places are then linearly separable in the encoder states, and the UNet learns several times faster.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from small_models.tiny.tokenizers import CLIP_END, write_clip
from small_models.training.loop import TrainingConfig, train
from small_models.training.sdxl.captions import caption, tokenizer_corpus
from small_models.training.sdxl.dataset import PLACES, SHAPES, Figure, Scene, sample_scene
from small_models.training.sdxl.networks import CONTEXT_LENGTH, WIDTH_1, WIDTH_2, make_text_encoders
from small_models.training.shapes import PALETTE

_BATCH = 64
_PAIRS = 0.4  # fraction of captions with two figures, which are the harder ones

_COLORS, _PLACES = tuple(PALETTE), tuple(PLACES)
CLASS_COUNTS = (len(_COLORS), 2, *(len(SHAPES) + 1, len(_COLORS) + 1, len(_PLACES) + 1) * 2)
"""Number of classes of each attribute: background, stripes, then shape, color and place of both figures."""


def attribute_labels(scene: Scene) -> list[int]:
    """Returns a scene's class index for each attribute. The last class of a figure's attributes means that the figure is absent."""
    absent = [len(SHAPES), len(_COLORS), len(_PLACES)]
    figures = [label for figure in scene.figures for label in _figure_labels(figure)]
    return [_COLORS.index(scene.background), int(scene.striped), *figures, *absent * (2 - len(scene.figures))]


def _figure_labels(figure: Figure) -> list[int]:
    return [SHAPES.index(figure.shape), _COLORS.index(figure.color), _PLACES.index(figure.place)]


def write_tokenizers(folder: Path) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Trains both tokenizers, writes them to a model's folder, and loads them."""
    corpus = tokenizer_corpus()
    for name, pad in (("tokenizer", CLIP_END), ("tokenizer_2", "!")):
        write_clip(folder / name, pad=pad, corpus=corpus, context_length=CONTEXT_LENGTH)
    first, second = (CLIPTokenizer.from_pretrained(folder / name) for name in ("tokenizer", "tokenizer_2"))
    return first, second


class TextEncoders(nn.Module):
    """Both text encoders with their tokenizers.

    Args:
        tokenizers: The tokenizer of each.
    """

    def __init__(self, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]) -> None:
        super().__init__()
        self.tokenizers = tokenizers
        self.text_encoder, self.text_encoder_2 = make_text_encoders(len(tokenizers[0]))

    def forward(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Encodes captions as SDXL's pipeline does.

        Returns:
            The penultimate hidden states, batch × tokens × (64 + 96); the pooled embedding of the second encoder, batch × 96; and the
            penultimate hidden states of the end tokens, batch × (64 + 96).
        """
        ids, ids_2 = (_token_ids(tokenizer, texts).to(self.text_encoder.device) for tokenizer in self.tokenizers)
        first: Any = self.text_encoder(ids, output_hidden_states=True)
        second: Any = self.text_encoder_2(ids_2, output_hidden_states=True)
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return states, second.text_embeds, states[torch.arange(len(texts)), ids_2.argmax(-1)]  # the end token has the highest id


def _token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    ids: Tensor = tokenizer(texts, padding="max_length", truncation=True, max_length=CONTEXT_LENGTH, return_tensors="pt").input_ids
    return ids


class _ProbedEncoders(nn.Module):
    """The text encoders with a linear probe on each one's end-token state and on the pooled embedding."""

    def __init__(self, encoders: TextEncoders) -> None:
        super().__init__()
        self.encoders = encoders
        self.probes = nn.ModuleList(nn.Linear(width, sum(CLASS_COUNTS)) for width in (WIDTH_1, WIDTH_2, WIDTH_2))

    def forward(self, texts: list[str]) -> list[Tensor]:
        """Returns the logits of all classes, batch × classes, from each of the three probes."""
        _, pooled, ends = self.encoders(texts)
        inputs = (ends[:, :WIDTH_1], ends[:, WIDTH_1:], pooled)
        return [probe(state) for probe, state in zip(self.probes, inputs, strict=True)]


def train_text_encoders(
    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer], config: TrainingConfig, device: torch.device, seed: int
) -> tuple[TextEncoders, float]:
    """Trains both text encoders from scratch.

    Returns:
        The frozen encoders, and the accuracy of the pooled embedding's probe on held-out captions, 0 … 1.
    """
    torch.manual_seed(seed)
    untrained = _ProbedEncoders(TextEncoders(tokenizers)).to(device)
    trained = train(untrained, _loss(untrained, seed), config)
    return trained.encoders, _held_out_accuracy(trained, seed)


def _sample_batch(seed: int, step: int, *, held_out: bool) -> tuple[list[str], Tensor]:
    rng = np.random.default_rng((seed, step))
    scenes = [sample_scene(rng, pairs=_PAIRS, held_out=held_out) for _ in range(_BATCH)]
    return [caption(scene, rng) for scene in scenes], torch.tensor([attribute_labels(scene) for scene in scenes])


def _loss(encoders: _ProbedEncoders, seed: int) -> Callable[[int], Tensor]:
    def loss_at(step: int) -> Tensor:
        texts, labels = _sample_batch(seed, step, held_out=False)
        losses = [attribute_loss(logits, labels.to(logits.device)) for logits in encoders(texts)]
        return torch.stack(losses).mean()

    return loss_at


def attribute_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean cross-entropy over all attributes of logits, batch × classes, and labels, batch × attributes."""
    attributes = zip(torch.split(logits, list(CLASS_COUNTS), -1), labels.unbind(-1), strict=True)
    return torch.stack(list(starmap(nn.functional.cross_entropy, attributes))).mean()


def attribute_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Returns the fraction of attributes that are predicted correctly, 0 … 1."""
    predicted = torch.stack([attribute.argmax(-1) for attribute in torch.split(logits, list(CLASS_COUNTS), -1)], -1)
    return float((predicted == labels).float().mean())


@torch.inference_mode()
def _held_out_accuracy(encoders: _ProbedEncoders, seed: int) -> float:
    texts, labels = _sample_batch(seed, -1 % 2**32, held_out=True)
    return attribute_accuracy(encoders(texts)[-1].cpu(), labels)
