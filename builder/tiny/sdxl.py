"""A small SDXL: three UNet blocks, two text encoders of different widths, a VAE that divides by eight."""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from builder.tiny.tokenizers import CLIP_END, CLIP_WINDOW, write_clip, write_json

# The widths must differ: what reads single-file checkpoints tells the two encoders apart by them.
_WIDTH_1, _WIDTH_2 = 32, 48
_TIME_WIDTH = 8
_SIZE_CONDITIONS = 6  # original height and width, crop top and left, target height and width


def _text_config(width: int, tokens: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CLIP_WINDOW,
        hidden_act=activation,
        bos_token_id=0,
        eos_token_id=2,  # as published; pooling then takes the highest id, which is the end token
        pad_token_id=1,
        initializer_factor=4.0,
    )


def _unet(text_width: int = _WIDTH_1 + _WIDTH_2, sizes: int = _SIZE_CONDITIONS) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4, 4),
        transformer_layers_per_block=(1, 1, 2),
        cross_attention_dim=text_width,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=_TIME_WIDTH,
        projection_class_embeddings_input_dim=sizes * _TIME_WIDTH + _WIDTH_2,
    )


def tiny_vae(*, overflows: bool = True) -> AutoencoderKL:
    """A VAE with random weights.

    Args:
        overflows: What its configuration says about half precision, as the published one's does.
    """
    return AutoencoderKL(
        sample_size=1024,
        block_out_channels=(16, 16, 32, 32),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.13025,
        force_upcast=overflows,
    )


def _scheduler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        num_train_timesteps=1000,
        prediction_type="epsilon",
        timestep_spacing="leading",
        steps_offset=1,
        use_karras_sigmas=False,
        interpolation_type="linear",
    )


INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "force_zeros_for_empty_prompt": True,
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
"""The published `model_index.json`: which class each component is of."""


def write_sdxl(folder: Path) -> None:
    """Writes a diffusers folder with the components and the file names of the published one."""
    tokens = write_clip(folder / "tokenizer", pad=CLIP_END)
    write_clip(folder / "tokenizer_2", pad="!")
    CLIPTextModel(_text_config(_WIDTH_1, tokens, "quick_gelu")).save_pretrained(folder / "text_encoder")
    CLIPTextModelWithProjection(_text_config(_WIDTH_2, tokens, "gelu")).save_pretrained(folder / "text_encoder_2")
    _unet().save_pretrained(folder / "unet")
    tiny_vae().save_pretrained(folder / "vae")
    _scheduler().save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", INDEX)


def write_refiner(folder: Path) -> None:
    """Writes what a worker reads of the published refiner's folder: its UNet, which knows the second text encoder alone, and its index."""
    _unet(_WIDTH_2, _SIZE_CONDITIONS - 1).save_pretrained(folder / "unet")  # a score takes the place of the target's height and width
    write_json(folder / "model_index.json", {"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True})
