"""Trains the small WAN's transformer by flow matching: from text alone, with frames given, and with a reference image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from diffusers import WanVACETransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor

from small_models.training.loop import TrainingConfig, train
from small_models.training.wan.captions import caption, caption_without_colors
from small_models.training.wan.dataset import Scene
from small_models.training.wan.latents import LatentClips
from small_models.training.wan.networks import make_transformer, text_to_video_view
from small_models.training.wan.padded_attention import PaddedTextAttnProcessor, set_cross_attention_processor
from small_models.training.wan.text_encoder import CaptionEncoder

Choice = TypeVar("Choice")

_BATCH = 32
_CAPTION_DROPOUT = 0.1  # fraction of empty captions, for classifier-free guidance
_FRAME_DROPOUT = 0.15  # fraction of clips without given frames in batches with given frames
_TIMESTEPS = 1000


@dataclass(frozen=True)
class DataMix:
    """The composition of the training data of one stage.

    Attributes:
        lengths: The probability of each clip length, in frames.
        conditioning: The probability that a batch is conditioned on `text` alone, or also on `frames` or on an `image`.
        shift: The shift of the noise schedule towards noise.
        motion_weight: The loss weight of the error's difference between consecutive latent frames.
        colorless: The fraction of captions without colors among clips with frames or images given, whose colors must then be used.
    """

    lengths: Mapping[int, float]
    conditioning: Mapping[str, float]
    shift: float
    motion_weight: float = 0.0
    colorless: float = 0.0


GENERAL = DataMix({1: 0.03, 5: 0.07, 9: 0.5, 13: 0.2, 17: 0.2}, {"text": 0.5, "frames": 0.4, "image": 0.1}, shift=3.0)
"""First stage: appearance. Colors are learned early; the direction of motion is decided at the noisiest timesteps and hardly learned."""
MOTION = DataMix({9: 0.8, 13: 0.1, 17: 0.1}, {"text": 0.8, "frames": 0.2}, shift=8.0, motion_weight=2.0)
"""Second stage: the direction of motion."""
REFERENCES = DataMix(
    {1: 0.1, 5: 0.05, 9: 0.55, 13: 0.15, 17: 0.15},
    {"text": 0.35, "frames": 0.2, "image": 0.45},
    shift=5.0,
    motion_weight=1.0,
    colorless=0.6,
)
"""Third stage: references. They are redundant while captions name every color, and are forgotten in the second stage."""


def train_transformer(
    pool: Sequence[LatentClips],
    encode_captions: CaptionEncoder,
    stages: Sequence[tuple[DataMix, TrainingConfig]],
    device: torch.device,
    seed: int,
) -> WanVACETransformer3DModel:
    """Trains the transformer and its VACE blocks from scratch.

    Args:
        pool: Clips of each length.
        encode_captions: Encodes captions.
        stages: The data and hyperparameters of each stage, in order.
        device: The device to train on.
        seed: Seeds weights, batches and noise.
    """
    torch.manual_seed(seed)
    transformer = make_transformer().to(device)
    set_cross_attention_processor(transformer, PaddedTextAttnProcessor())
    by_length = {clips.frames: clips for clips in pool}
    for number, (mix, config) in enumerate(stages):
        transformer.requires_grad_(True)
        transformer = train(transformer, _loss(transformer, by_length, encode_captions, mix, seed + 100 * number), config)
    set_cross_attention_processor(transformer, WanAttnProcessor())
    return transformer


def _loss(
    transformer: WanVACETransformer3DModel, pool: dict[int, LatentClips], encode_captions: CaptionEncoder, mix: DataMix, seed: int
) -> Callable[[int], Tensor]:
    text_to_video = text_to_video_view(transformer)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        clean, vace_inputs, scenes = _batch(pool[_draw(mix.lengths, rng)], _draw(mix.conditioning, rng), rng)
        states = encode_captions([_sample_caption(scene, 0.0 if vace_inputs is None else mix.colorless, rng) for scene in scenes])
        clean = clean.to(transformer.device)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32)).to(clean)
        sigmas = _sample_sigmas(mix.shift, rng).to(clean)
        sigma = sigmas.view(-1, 1, 1, 1, 1)
        noisy, timesteps = sigma * noise + (1 - sigma) * clean, _TIMESTEPS * sigmas
        if vace_inputs is None:
            flow = text_to_video(noisy, timesteps, states, return_dict=False)[0]
        else:
            flow = transformer(noisy, timesteps, states, control_hidden_states=vace_inputs.to(clean), return_dict=False)[0]
        return _flow_loss(flow - (noise - clean), mix.motion_weight)

    return loss_at


def _sample_caption(scene: Scene, colorless: float, rng: np.random.Generator) -> str:
    """Returns a full caption, with probability `colorless` one without colors, or an empty one."""
    if rng.random() < _CAPTION_DROPOUT:
        return ""
    return caption_without_colors(scene, rng) if rng.random() < colorless else caption(scene, rng)


def _flow_loss(error: Tensor, motion_weight: float) -> Tensor:
    """Returns the mean squared error plus that of its temporal differences. The minimum is the same, but errors of motion weigh more."""
    if not motion_weight or error.shape[2] == 1:
        return error.square().mean()
    return error.square().mean() + motion_weight * error.diff(dim=2).square().mean()


def _draw(probabilities: Mapping[Choice, float], rng: np.random.Generator) -> Choice:
    return list(probabilities)[int(rng.choice(len(probabilities), p=list(probabilities.values())))]


def _batch(clips: LatentClips, conditioning: str, rng: np.random.Generator) -> tuple[Tensor, Tensor | None, list[Scene]]:
    """Returns latents, VACE inputs or None, and scenes."""
    chosen = rng.integers(len(clips.scenes), size=_BATCH).tolist()
    scenes = [clips.scenes[index] for index in chosen]
    match conditioning:
        case "image":
            return (*clips.with_reference_images(chosen), scenes)
        case "frames":
            vace_inputs = clips.frame_inputs[chosen]
            vace_inputs[torch.from_numpy(rng.random(_BATCH) < _FRAME_DROPOUT)] = clips.empty_input
            return clips.latents[chosen], vace_inputs, scenes
        case _:
            return clips.latents[chosen], None, scenes


def _sample_sigmas(shift: float, rng: np.random.Generator) -> Tensor:
    """Returns stratified noise levels, which reduce the variance of a batch's loss."""
    uniform = torch.from_numpy((np.arange(_BATCH) + rng.random(_BATCH)) / _BATCH)
    return shift * uniform / (1 + (shift - 1) * uniform)
