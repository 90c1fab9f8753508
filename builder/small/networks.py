"""The small SDXL's parts: the published layout, narrow."""

from __future__ import annotations

from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from builder.small.shapes import SIZE

# They differ: what reads single-file checkpoints tells the two encoders apart by their widths.
WIDTH_1, WIDTH_2 = 64, 96
WINDOW = 32
"""Tokens that a text encoder sees at once. The published 77 would be padding for the most part, and cost more than twice as much."""
_TIME_WIDTH = 16
_SIZE_CONDITIONS = 6  # original height and width, crop top and left, target height and width


def make_text_encoders(tokens: int) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Both text encoders, untrained.

    Args:
        tokens: The number of tokens of their tokenizers.
    """
    first, second = _text_config(WIDTH_1, tokens, "quick_gelu"), _text_config(WIDTH_2, tokens, "gelu")
    return CLIPTextModel(first), CLIPTextModelWithProjection(second)


def _text_config(width: int, tokens: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,  # the last but one is used, and the contract can skip two more
        num_attention_heads=4,
        max_position_embeddings=WINDOW,
        hidden_act=activation,
        bos_token_id=0,
        eos_token_id=2,  # as published; pooling then takes the highest id, which is the end token
        pad_token_id=1,
        initializer_factor=4.0,
    )


def make_unet() -> UNet2DConditionModel:
    """The UNet, untrained, with the block names of the published one."""
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        block_out_channels=(64, 96, 80),
        layers_per_block=1,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(4, 4, 4),
        transformer_layers_per_block=(1, 1, 1),
        cross_attention_dim=WIDTH_1 + WIDTH_2,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=_TIME_WIDTH,
        projection_class_embeddings_input_dim=_SIZE_CONDITIONS * _TIME_WIDTH + WIDTH_2,
    )


def make_vae() -> AutoencoderKL:
    """The VAE, untrained: pixels divided by eight, four channels.

    Its norms have few groups, since a norm over few channels takes away a flat picture's absolute color.
    """
    return AutoencoderKL(
        sample_size=SIZE,
        block_out_channels=(8, 16, 32, 64),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def make_scheduler() -> EulerDiscreteScheduler:
    """The published noise schedule. The UNet predicts velocities, which at the noisiest steps says more than noise does."""
    return EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        timestep_spacing="leading",
        steps_offset=1,
        use_karras_sigmas=False,
        interpolation_type="linear",
    )
