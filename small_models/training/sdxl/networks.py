"""The small SDXL's parts: the published layout, narrow."""

from __future__ import annotations

from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from small_models.sdxl_networks import scheduler, text_encoders, unet, vae
from small_models.training.shapes import SIZE

WIDTH_1, WIDTH_2 = 64, 96
WINDOW = 32
"""Tokens that a text encoder sees at once. The published 77 would be padding for the most part, and cost more than twice as much."""


def make_text_encoders(tokens: int) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Both text encoders, untrained.

    Args:
        tokens: The number of tokens of their tokenizers.
    """
    return text_encoders((WIDTH_1, WIDTH_2), tokens=tokens, window=WINDOW)


def make_unet() -> UNet2DConditionModel:
    """The UNet, untrained."""
    text = (WIDTH_1, WIDTH_2)
    return unet((64, 96, 80), size=SIZE // 8, layers=1, attention=[(4, 1)] * 3, text=text, time_width=16)


def make_vae() -> AutoencoderKL:
    """The VAE, untrained. Its norms have few groups, since a norm over few channels takes away a flat picture's absolute color."""
    return vae((8, 16, 32, 64), size=SIZE, groups=2, mid_block_add_attention=False, force_upcast=False)


def make_scheduler() -> EulerDiscreteScheduler:
    """The noise schedule. The UNet predicts velocities, which at the noisiest steps says more than noise does."""
    return scheduler("v_prediction")
