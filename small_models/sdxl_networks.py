"""SDXL's networks in the published architecture with configurable widths, for the small trained and the tiny random models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

SIZE_CONDITIONS = 6  # original height and width, crop top and left, target height and width


def text_encoders(widths: tuple[int, int], *, vocabulary: int, context_length: int) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Returns both text encoders, untrained.

    Args:
        widths: The width of each. They must differ, because loaders of single-file checkpoints distinguish the two by them.
        vocabulary: The number of tokens of their tokenizers.
        context_length: Tokens per prompt.
    """

    def config(width: int, activation: str) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=3,  # the penultimate one is used, and `clip_skip` skips up to two more
            num_attention_heads=4,
            max_position_embeddings=context_length,
            hidden_act=activation,
            bos_token_id=0,
            eos_token_id=2,  # as published; pooling then selects the highest token id, the end token
            pad_token_id=1,
            initializer_factor=4.0,
        )

    return CLIPTextModel(config(widths[0], "quick_gelu")), CLIPTextModelWithProjection(config(widths[1], "gelu"))


def unet(
    channels: tuple[int, int, int],
    *,
    size: int,
    layers: int,
    attention: Sequence[tuple[int, int]],
    text_widths: Sequence[int],
    time_width: int,
    conditions: int = SIZE_CONDITIONS,
) -> UNet2DConditionModel:
    """Returns the UNet, untrained, with the published block types.

    Args:
        channels: Channels of its three blocks.
        size: Side of the latents, in latent pixels.
        layers: Residual layers per block.
        attention: For each block, the number of attention heads and of transformer layers.
        text_widths: Widths of the text encoders that condition it. The last one also provides the pooled embedding.
        time_width: Width of the embedding of each size condition.
        conditions: The number of size conditions.
    """
    return UNet2DConditionModel(
        sample_size=size,
        block_out_channels=channels,
        layers_per_block=layers,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=tuple(heads for heads, _ in attention),
        transformer_layers_per_block=tuple(depth for _, depth in attention),
        cross_attention_dim=sum(text_widths),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=time_width,
        projection_class_embeddings_input_dim=conditions * time_width + text_widths[-1],
    )


def vae(channels: tuple[int, int, int, int], *, size: int, groups: int, **options: float) -> AutoencoderKL:
    """Returns the VAE, untrained: a downscaling factor of 8, four latent channels.

    Args:
        channels: Channels of its four blocks.
        size: Side of the images in pixels.
        groups: The number of normalization groups.
        options: Further arguments of `AutoencoderKL`.
    """
    return AutoencoderKL(
        sample_size=size,
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=groups,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        **options,
    )


def scheduler(prediction_type: Literal["epsilon", "v_prediction"]) -> EulerDiscreteScheduler:
    """Returns the published noise schedule.

    Args:
        prediction_type: What the UNet predicts: the noise, as published, or the velocity.
    """
    return EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        num_train_timesteps=1000,
        prediction_type=prediction_type,
        timestep_spacing="leading",
        steps_offset=1,
        use_karras_sigmas=False,
        interpolation_type="linear",
    )
