"""The small SDXL's networks: the published architecture with few channels."""

from __future__ import annotations

from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from small_models.sdxl_networks import scheduler, text_encoders, unet, vae
from small_models.training.shapes import SIZE

WIDTH_1, WIDTH_2 = 64, 96
CONTEXT_LENGTH = 32
"""Tokens per prompt. Of the published 77 most would be padding, at more than twice the cost."""


def make_text_encoders(vocabulary: int) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Returns both text encoders, untrained.

    Args:
        vocabulary: The number of tokens of their tokenizers.
    """
    return text_encoders((WIDTH_1, WIDTH_2), vocabulary=vocabulary, context_length=CONTEXT_LENGTH)


def make_unet() -> UNet2DConditionModel:
    """Returns the UNet, untrained."""
    return unet((64, 96, 80), size=SIZE // 8, layers=1, attention=[(4, 1)] * 3, text_widths=(WIDTH_1, WIDTH_2), time_width=16)


def make_vae() -> AutoencoderKL:
    """Returns the VAE, untrained. It has few normalization groups: a norm over few channels would erase a flat image's absolute color."""
    return vae((8, 16, 32, 64), size=SIZE, groups=2, mid_block_add_attention=False, force_upcast=False)


def make_scheduler() -> EulerDiscreteScheduler:
    """Returns the noise schedule with v-prediction, which is more informative than epsilon at the noisiest steps."""
    return scheduler("v_prediction")
