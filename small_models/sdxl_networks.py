"""SDXL's parts in the published layout, as narrow as one likes: the models for trying and those for testing are made of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

SIZE_CONDITIONS = 6  # original height and width, crop top and left, target height and width


def text_encoders(widths: tuple[int, int], *, tokens: int, window: int) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Both text encoders, untrained.

    Args:
        widths: Of each. They must differ: what reads single-file checkpoints tells the two apart by them.
        tokens: The number of tokens of their tokenizers.
        window: Tokens that they see at once.
    """

    def config(width: int, activation: str) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=tokens,
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=3,  # the last but one is used, and the contract can skip two more
            num_attention_heads=4,
            max_position_embeddings=window,
            hidden_act=activation,
            bos_token_id=0,
            eos_token_id=2,  # as published; pooling then takes the highest id, which is the end token
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
    text: Sequence[int],
    time_width: int,
    conditions: int = SIZE_CONDITIONS,
) -> UNet2DConditionModel:
    """The UNet, untrained, with the block names of the published one.

    Args:
        channels: Of its three blocks.
        size: Latent pixels of the side of the pictures that it is for.
        layers: Of each block.
        attention: For each block, its heads, and its layers at each place.
        text: Widths of the text encoders that it listens to; the last one's pooled output comes with the conditions.
        time_width: Of the embedding of each condition.
        conditions: Numbers that say which part of what picture is meant.
    """
    return UNet2DConditionModel(
        sample_size=size,
        block_out_channels=channels,
        layers_per_block=layers,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=tuple(heads for heads, _ in attention),
        transformer_layers_per_block=tuple(deep for _, deep in attention),
        cross_attention_dim=sum(text),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=time_width,
        projection_class_embeddings_input_dim=conditions * time_width + text[-1],
    )


def vae(channels: tuple[int, int, int, int], *, size: int, groups: int, **others: float) -> AutoencoderKL:
    """The VAE, untrained: pixels divided by eight, four channels.

    Args:
        channels: Of its four blocks.
        size: Pixels of the side of the pictures that it is for.
        groups: Of channels that are normalised together.
        others: What else is not as diffusers has it.
    """
    return AutoencoderKL(
        sample_size=size,
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=groups,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        **others,
    )


def scheduler(predicts: Literal["epsilon", "v_prediction"]) -> EulerDiscreteScheduler:
    """The published noise schedule.

    Args:
        predicts: What the UNet says: the noise, as the published one, or the velocity.
    """
    return EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        num_train_timesteps=1000,
        prediction_type=predicts,
        timestep_spacing="leading",
        steps_offset=1,
        use_karras_sigmas=False,
        interpolation_type="linear",
    )
