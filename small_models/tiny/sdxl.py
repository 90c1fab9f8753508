"""A tiny SDXL: three UNet blocks, two text encoders of different widths, a VAE with a downscaling factor of 8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffusers import AutoencoderKL, UNet2DConditionModel

from small_models.sdxl_networks import SIZE_CONDITIONS, scheduler, text_encoders, unet, vae
from small_models.tiny.tokenizers import CLIP_CONTEXT, CLIP_END, write_clip, write_json

_WIDTHS = (32, 48)


def _unet(text_widths: Sequence[int], conditions: int) -> UNet2DConditionModel:
    attention = ((2, 1), (4, 1), (4, 2))
    return unet((32, 64, 64), size=128, layers=2, attention=attention, text_widths=text_widths, time_width=8, conditions=conditions)


def tiny_vae(*, force_upcast: bool = True) -> AutoencoderKL:
    """Returns a VAE with random weights.

    Args:
        force_upcast: The configuration value of the same name; the published VAE has True.
    """
    return vae((16, 16, 32, 32), size=1024, groups=8, scaling_factor=0.13025, force_upcast=force_upcast)


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
"""The published `model_index.json`: the class of each component."""


def write_sdxl(folder: Path) -> None:
    """Writes a diffusers folder with the components and file names of the published one."""
    vocabulary = write_clip(folder / "tokenizer", pad=CLIP_END)
    write_clip(folder / "tokenizer_2", pad="!")
    first, second = text_encoders(_WIDTHS, vocabulary=vocabulary, context_length=CLIP_CONTEXT)
    first.save_pretrained(folder / "text_encoder")
    second.save_pretrained(folder / "text_encoder_2")
    _unet(_WIDTHS, SIZE_CONDITIONS).save_pretrained(folder / "unet")
    tiny_vae().save_pretrained(folder / "vae")
    scheduler("epsilon").save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", INDEX)


def write_refiner(folder: Path) -> None:
    """Writes the parts of a refiner folder that a worker reads: the UNet, conditioned on the second text encoder only, and the index."""
    _unet(_WIDTHS[1:], SIZE_CONDITIONS - 1).save_pretrained(folder / "unet")  # an aesthetic score replaces the target's height and width
    write_json(folder / "model_index.json", {"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True})
