"""Training both text encoders to tell what a caption says, as the published ones were trained before their UNet was.

The UNet then starts from states in which shapes, colors and places can be read off, and learns several times faster.
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
from small_models.training.loop import Stage, train
from small_models.training.sdxl.captions import caption, sentences
from small_models.training.sdxl.networks import WIDTH_1, WIDTH_2, WINDOW, make_text_encoders
from small_models.training.shapes import PALETTE, PLACES, SHAPES, Figure, Scene, sample_scene

_BATCH = 64
_PAIRS = 0.4  # the share of captions with two figures, which are the harder ones

_COLORS, _PLACES = tuple(PALETTE), tuple(PLACES)
ANSWERS = (len(_COLORS), 2, *(len(SHAPES) + 1, len(_COLORS) + 1, len(_PLACES) + 1) * 2)
"""How many answers each question has: background, stripes, then shape, color and place of both figures."""


def answers(scene: Scene) -> list[int]:
    """The right answers to the questions about a scene. The last answer about a figure says that there is none."""
    absent = [len(SHAPES), len(_COLORS), len(_PLACES)]
    told = [answer for figure in scene.figures for answer in _about(figure)]
    return [_COLORS.index(scene.background), int(scene.striped), *told, *absent * (2 - len(scene.figures))]


def _about(figure: Figure) -> list[int]:
    return [SHAPES.index(figure.shape), _COLORS.index(figure.color), _PLACES.index(figure.place)]


def write_tokenizers(folder: Path) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Writes both tokenizers into a model's folder, and loads them."""
    text = sentences()
    for name, pad in (("tokenizer", CLIP_END), ("tokenizer_2", "!")):
        write_clip(folder / name, pad=pad, sentences=text, window=WINDOW)
    first, second = (CLIPTokenizer.from_pretrained(folder / name) for name in ("tokenizer", "tokenizer_2"))
    return first, second


class TextEncoders(nn.Module):
    """Both text encoders.

    Args:
        tokenizers: What their tokens come from.
    """

    def __init__(self, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]) -> None:
        super().__init__()
        self.tokenizers = tokenizers
        self.text_encoder, self.text_encoder_2 = make_text_encoders(len(tokenizers[0]))

    def forward(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Encodes captions as SDXL's pipeline does.

        Returns:
            The last but one states, batch × window × (64 + 96); the second encoder's pooled text, batch × 96; and the last but one states
            of the captions' ends, batch × (64 + 96).
        """
        ids, ids_2 = (_tokens(tokenizer, texts).to(self.text_encoder.device) for tokenizer in self.tokenizers)
        one: Any = self.text_encoder(ids, output_hidden_states=True)
        two: Any = self.text_encoder_2(ids_2, output_hidden_states=True)
        states = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1)
        return states, two.text_embeds, states[torch.arange(len(texts)), ids_2.argmax(-1)]  # the end token has the highest id


def _tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    ids: Tensor = tokenizer(texts, padding="max_length", truncation=True, max_length=WINDOW, return_tensors="pt").input_ids
    return ids


class _Examiner(nn.Module):
    """Text encoders with a linear answer to each question, from each encoder's states and from the pooled text."""

    def __init__(self, encoders: TextEncoders) -> None:
        super().__init__()
        self.encoders = encoders
        self.heads = nn.ModuleList(nn.Linear(width, sum(ANSWERS)) for width in (WIDTH_1, WIDTH_2, WIDTH_2))

    def forward(self, texts: list[str]) -> list[Tensor]:
        """Scores of all answers, batch × answers, from each of the three."""
        _, pooled, ends = self.encoders(texts)
        return [head(state) for head, state in zip(self.heads, (ends[:, :WIDTH_1], ends[:, WIDTH_1:], pooled), strict=True)]


def train_text_encoders(
    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer], stage: Stage, device: torch.device, seed: int
) -> tuple[TextEncoders, float]:
    """Trains both text encoders from nothing.

    Returns:
        The encoders, frozen, and the share of questions about held-out captions that are answered right from the pooled text, 0 … 1.
    """
    torch.manual_seed(seed)
    untrained = _Examiner(TextEncoders(tokenizers)).to(device)
    examiner = train(untrained, _loss(untrained, seed), stage)
    return examiner.encoders, _examine(examiner, seed)


def _draw(seed: int, step: int, *, held_out: bool) -> tuple[list[str], Tensor]:
    rng = np.random.default_rng((seed, step))
    scenes = [sample_scene(rng, pairs=_PAIRS, held_out=held_out) for _ in range(_BATCH)]
    return [caption(scene, rng) for scene in scenes], torch.tensor([answers(scene) for scene in scenes])


def _loss(examiner: _Examiner, seed: int) -> Callable[[int], Tensor]:
    def loss_at(step: int) -> Tensor:
        texts, right = _draw(seed, step, held_out=False)
        losses = [wrongness(scores, right.to(scores.device)) for scores in examiner(texts)]
        return torch.stack(losses).mean()

    return loss_at


def wrongness(scores: Tensor, right: Tensor) -> Tensor:
    """How far scores of all answers, batch × answers, are from the right answers, batch × questions: the mean cross-entropy."""
    questions = zip(torch.split(scores, list(ANSWERS), -1), right.unbind(-1), strict=True)
    return torch.stack(list(starmap(nn.functional.cross_entropy, questions))).mean()


def rightness(scores: Tensor, right: Tensor) -> float:
    """The share of questions that scores answer right, 0 … 1."""
    given = torch.stack([about.argmax(-1) for about in torch.split(scores, list(ANSWERS), -1)], -1)
    return float((given == right).float().mean())


@torch.inference_mode()
def _examine(examiner: _Examiner, seed: int) -> float:
    texts, right = _draw(seed, -1 % 2**32, held_out=True)
    return rightness(examiner(texts)[-1].cpu(), right)
