"""Training the UNet together with both text encoders, on latents that were computed beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from builder.small.captions import caption, sentences
from builder.small.networks import WINDOW, make_scheduler, make_text_encoders, make_unet
from builder.small.shapes import SIZE, Scene
from builder.small.training import Stage, train
from builder.tiny.tokenizers import CLIP_END, write_clip

_BATCH = 48
_DROPPED = 0.1  # the share of captions that become empty, for guidance
_STEPS = 1000  # of the noise schedule


@dataclass(frozen=True)
class Examples:
    """What the UNet learns from.

    Attributes:
        latents: Count × 4 × 8 × 8, scaled to a standard deviation of 1.
        scenes: What each shows.
    """

    latents: Tensor
    scenes: list[Scene]


def write_tokenizers(folder: Path) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Writes both tokenizers into a model's folder, and loads them."""
    text = sentences()
    for name, pad in (("tokenizer", CLIP_END), ("tokenizer_2", "!")):
        write_clip(folder / name, pad=pad, sentences=text, window=WINDOW)
    first, second = (CLIPTokenizer.from_pretrained(folder / name) for name in ("tokenizer", "tokenizer_2"))
    return first, second


class Denoiser(nn.Module):
    """The UNet with both text encoders.

    Args:
        tokens: The number of tokens of the tokenizers.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.text_encoder, self.text_encoder_2 = make_text_encoders(tokens)
        self.unet = make_unet()

    def forward(self, noisy: Tensor, times: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Predicts velocities.

        Args:
            noisy: Batch × 4 × 8 × 8.
            times: Steps of the noise schedule, 0 … 999.
            first: Tokens of the first tokenizer, batch × window.
            second: Tokens of the second tokenizer, batch × window.
        """
        one: Any = self.text_encoder(first, output_hidden_states=True)
        two: Any = self.text_encoder_2(second, output_hidden_states=True)
        states = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1)
        sizes = torch.tensor([SIZE, SIZE, 0, 0, SIZE, SIZE], device=noisy.device).repeat(len(noisy), 1)
        conditions = {"text_embeds": two.text_embeds, "time_ids": sizes}
        velocity: Tensor = self.unet(noisy, times, states, added_cond_kwargs=conditions, return_dict=False)[0]
        return velocity


def train_denoiser(
    examples: Examples, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer], stage: Stage, device: torch.device, seed: int
) -> Denoiser:
    """Trains the UNet and the text encoders from nothing."""
    torch.manual_seed(seed)
    denoiser = Denoiser(len(tokenizers[0])).to(device)
    trained = train(denoiser, _denoiser_loss(denoiser, examples, tokenizers, device, seed), stage)
    assert isinstance(trained, Denoiser)
    return trained


def _denoiser_loss(
    denoiser: Denoiser, examples: Examples, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer], device: torch.device, seed: int
) -> Callable[[int], Tensor]:
    kept = make_scheduler().alphas_cumprod.to(device)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        chosen = rng.integers(len(examples.scenes), size=_BATCH)
        texts = ["" if rng.random() < _DROPPED else caption(examples.scenes[index], rng) for index in chosen]
        first, second = (_tokens(tokenizer, texts).to(device) for tokenizer in tokenizers)
        clean = examples.latents[chosen].to(device)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32)).to(device)
        # One time from each of as many equal stretches as there are examples: a batch's loss then varies less.
        times = torch.from_numpy((np.arange(_BATCH) + rng.random(_BATCH)) * _STEPS / _BATCH).long().to(device)
        signal = kept[times].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        velocity = signal.sqrt() * noise - (1 - signal).sqrt() * clean
        return nn.functional.mse_loss(denoiser(noisy, times, first, second), velocity)

    return loss_at


def _tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    ids: Tensor = tokenizer(texts, padding="max_length", truncation=True, max_length=WINDOW, return_tensors="pt").input_ids
    return ids


def save_denoiser(denoiser: Denoiser, folder: Path) -> None:
    """Writes the UNet, the text encoders and the scheduler in half precision."""
    for name in ("unet", "text_encoder", "text_encoder_2"):
        part: Any = getattr(denoiser, name)
        part.to(torch.float16).save_pretrained(folder / name)
    make_scheduler().save_pretrained(folder / "scheduler")
