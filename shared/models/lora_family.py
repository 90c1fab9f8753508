"""Recognises the model that a LoRA file was trained for, so that a refusal can name it."""

from __future__ import annotations

import re
from collections.abc import Mapping

_FAMILIES = tuple(
    (re.compile(pattern), family)
    for pattern, family in (
        (r"(?:double|single)_(?:transformer_)?blocks_\d", "FLUX or HunyuanVideo"),
        (r"joint_(?:transformer_)?blocks_\d|transformer_blocks_\d+_attn_add_", "SD 3"),
        (r"transformer_blocks_\d+_(?:img|txt)_m", "Qwen-Image"),
        (r"(?:^|(?<!transformer)_)blocks_\d+_(?:self_attn|cross_attn|attn[12]|ffn)_", "WAN"),
    )
)
_UNET = re.compile(r"(?:input|output|down|up)_blocks_\d|mid(?:dle)?_block_")
_CROSS_ATTENTION = re.compile(r"attn2_(?:processor_)?to_[kv]")
_WIDTHS = {768: "SD 1.5", 1024: "SD 2", 1280: "the SDXL refiner", 2048: "SDXL"}
_OLDER_UNET = re.compile(r"down_blocks_0_attentions|input_blocks_[12]_1_|^lora_te_")
_TWO_ENCODERS = re.compile(r"^lora_te2_|text_encoder_2_|clip_g_")
_HEADER_KEYS = ("modelspec.architecture", "ss_base_model_version")
_HEADERS = (
    (re.compile(r"sdxl|stable-diffusion-xl", re.IGNORECASE), "SDXL"),
    (re.compile(r"^sd_v1|stable-diffusion-v1", re.IGNORECASE), "SD 1.5"),
    (re.compile(r"^sd_v2|stable-diffusion-v2", re.IGNORECASE), "SD 2"),
    (re.compile(r"flux", re.IGNORECASE), "FLUX or HunyuanVideo"),
    (re.compile(r"^sd3|stable-diffusion-3", re.IGNORECASE), "SD 3"),
    (re.compile(r"wan", re.IGNORECASE), "WAN"),
)


def trained_for(layers: Mapping[str, int | None], header: Mapping[str, str]) -> str | None:
    """Returns the model family of a LoRA, or None if it is not recognised.

    Args:
        layers: The names of the layers in the file, and the number of inputs of each where it is known.
        header: The file's metadata. It is used where the names do not tell.
    """
    flat = {name.replace(".", "_"): width for name, width in layers.items()}
    for pattern, family in _FAMILIES:
        if any(pattern.search(name) for name in flat):
            return family
    return (_unet_family(flat) if any(_UNET.search(name) for name in flat) else None) or _header_family(header)


def _unet_family(layers: Mapping[str, int | None]) -> str | None:
    widths = {width for name, width in layers.items() if _CROSS_ATTENTION.search(name)}
    if known := next((_WIDTHS[width] for width in sorted(width for width in widths if width) if width in _WIDTHS), None):
        return known
    if any(_TWO_ENCODERS.search(name) for name in layers):
        return "SDXL"
    return "SD 1.5" if any(_OLDER_UNET.search(name) for name in layers) else None


def _header_family(header: Mapping[str, str]) -> str | None:
    short = [header[key] for key in _HEADER_KEYS if key in header]
    return next((family for pattern, family in _HEADERS for value in short if pattern.search(value)), None)
