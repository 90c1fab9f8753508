"""Training the transformer: flows from noise to latents, with nothing given, with frames given, with a picture given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from diffusers import WanVACETransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor

from small_models.training.loop import Stage, train
from small_models.training.wan.captions import caption, colorless
from small_models.training.wan.dataset import Scene
from small_models.training.wan.latents import Examples
from small_models.training.wan.networks import make_transformer, without_vace
from small_models.training.wan.padded_attention import PaddedText, set_text_attention
from small_models.training.wan.text_encoder import Texts

Choice = TypeVar("Choice")

_BATCH = 32
_DROPPED = 0.1  # the share of captions that become empty, for guidance
_NOTHING = 0.15  # of clips whose frames could be given, how many have none given
_STEPS = 1000


@dataclass(frozen=True)
class Diet:
    """What the transformer is trained on.

    Attributes:
        lengths: How often a batch has clips of so many frames.
        given: How often a batch has nothing given but `text`, or `frames`, or a `picture`.
        shift: How far the times are shifted towards noise.
        change: How much errors count that change from one latent frame to the next, beside those that stay.
        colorless: How many captions of what is given something leave its colors out, so that it is looked at for them.
    """

    lengths: Mapping[int, float]
    given: Mapping[str, float]
    shift: float
    change: float = 0.0
    colorless: float = 0.0


BROAD = Diet({1: 0.03, 5: 0.07, 9: 0.5, 13: 0.2, 17: 0.2}, {"text": 0.5, "frames": 0.4, "picture": 0.1}, shift=3.0)
"""First: what clips look like. Colors are learned soon; which way a figure moves is decided in the noisiest steps, and hardly learned."""
MOTION = Diet({9: 0.8, 13: 0.1, 17: 0.1}, {"text": 0.8, "frames": 0.2}, shift=8.0, change=2.0)
"""Then: which way a figure moves."""
REFERENCES = Diet(
    {1: 0.1, 5: 0.05, 9: 0.55, 13: 0.15, 17: 0.15}, {"text": 0.35, "frames": 0.2, "picture": 0.45}, shift=5.0, change=1.0, colorless=0.6
)
"""Last: to look at what is given. While captions name every color there is no need to, and the stage before has forgotten it."""


def train_transformer(
    pool: Sequence[Examples], texts: Texts, plan: Sequence[tuple[Diet, Stage]], device: torch.device, seed: int
) -> WanVACETransformer3DModel:
    """Trains the transformer and its VACE blocks from nothing.

    Args:
        pool: Clips of each length.
        texts: Encodes captions.
        plan: What to train on, and for how long, one after the other.
        device: Where.
        seed: Draws weights, batches and noise.
    """
    torch.manual_seed(seed)
    transformer = make_transformer().to(device)
    set_text_attention(transformer, PaddedText())
    lengths = {examples.frames: examples for examples in pool}
    for number, (diet, stage) in enumerate(plan):
        transformer.requires_grad_(True)
        transformer = train(transformer, _loss(transformer, lengths, texts, diet, seed + 100 * number), stage)
    set_text_attention(transformer, WanAttnProcessor())
    return transformer


def _loss(
    transformer: WanVACETransformer3DModel, pool: dict[int, Examples], texts: Texts, diet: Diet, seed: int
) -> Callable[[int], Tensor]:
    plain = without_vace(transformer)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        clean, views, scenes = _batch(pool[_draw(diet.lengths, rng)], _draw(diet.given, rng), rng)
        words = texts([_caption(scene, 0.0 if views is None else diet.colorless, rng) for scene in scenes])
        clean = clean.to(transformer.device)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32)).to(clean)
        sigmas = _sigmas(diet.shift, rng).to(clean)
        part = sigmas.view(-1, 1, 1, 1, 1)
        noisy, times = part * noise + (1 - part) * clean, _STEPS * sigmas
        if views is None:
            flow = plain(noisy, times, words, return_dict=False)[0]
        else:
            flow = transformer(noisy, times, words, control_hidden_states=views.to(clean), return_dict=False)[0]
        return _squares(flow - (noise - clean), diet.change)

    return loss_at


def _caption(scene: Scene, share: float, rng: np.random.Generator) -> str:
    """One that names all, or no color in this share of them, or nothing."""
    if rng.random() < _DROPPED:
        return ""
    return colorless(scene, rng) if rng.random() < share else caption(scene, rng)


def _squares(error: Tensor, change: float) -> Tensor:
    """The mean of an error's squares and of those of its changes in time: least for the same flow, but motion counts for more."""
    if not change or error.shape[2] == 1:
        return error.square().mean()
    return error.square().mean() + change * error.diff(dim=2).square().mean()


def _draw(shares: Mapping[Choice, float], rng: np.random.Generator) -> Choice:
    return list(shares)[int(rng.choice(len(shares), p=list(shares.values())))]


def _batch(examples: Examples, given: str, rng: np.random.Generator) -> tuple[Tensor, Tensor | None, list[Scene]]:
    """Latents, VACE's view of them or None, and what they show."""
    chosen = rng.integers(len(examples.scenes), size=_BATCH).tolist()
    scenes = [examples.scenes[index] for index in chosen]
    match given:
        case "picture":
            return (*examples.with_pictures(chosen), scenes)
        case "frames":
            views = examples.given[chosen]
            views[torch.from_numpy(rng.random(_BATCH) < _NOTHING)] = examples.nothing
            return examples.latents[chosen], views, scenes
        case _:
            return examples.latents[chosen], None, scenes


def _sigmas(shift: float, rng: np.random.Generator) -> Tensor:
    """Shares of noise. One from each of as many equal stretches as there are clips: a batch's loss then varies less."""
    even = torch.from_numpy((np.arange(_BATCH) + rng.random(_BATCH)) / _BATCH)
    return shift * even / (1 + (shift - 1) * even)
