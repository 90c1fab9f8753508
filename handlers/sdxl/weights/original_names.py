"""Tensor names of the original SDXL implementation, which single-file checkpoints and their LoRAs use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Within one layer, from the names of diffusers or transformers.
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_TEXT_2_LAYER = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn": "attn"}

_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def unet_name(name: str, depth: int, has_attention: tuple[bool, ...]) -> str:
    """Returns the original name of a UNet tensor.

    The original numbers its blocks consecutively, up- and downsamplers included: a level takes `depth` + 1 numbers on the way down, where
    the first convolution is number 0, and as many on the way up.

    Args:
        name: The name in diffusers.
        depth: `layers_per_block` of the configuration.
        has_attention: For each level on the way up, whether it has attention, which its upsampler then follows.
    """
    if match := _BLOCK.fullmatch(name):
        way, kind, rest = match[1], match[3], match[5]
        level, layer = int(match[2]), int(match[4])
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * (depth + 1)}.0.{rest.replace('conv', 'op')}"
        if kind == "upsamplers":
            return f"output_blocks.{level * (depth + 1) + depth}.{2 if has_attention[level] else 1}.{rest}"
        number = level * (depth + 1) + layer
        block = f"input_blocks.{number + 1}" if way == "down" else f"output_blocks.{number}"
        return f"{block}.0.{_replace_prefix(rest, _UNET_RESNET)}" if kind == "resnets" else f"{block}.1.{rest}"
    if match := _MIDDLE.fullmatch(name):
        if match[1] == "resnets":
            return f"middle_block.{2 * int(match[2])}.{_replace_prefix(match[3], _UNET_RESNET)}"
        return f"middle_block.1.{match[3]}"
    outside: dict[str, str] = _diffusers_mapping()["unet"]["layers"] | _diffusers_mapping()["unet"]["addition_embed_type"]
    return outside[name]


def vae_name(name: str, levels: int) -> str:
    """Returns the original name of a VAE tensor. The original counts the decoder's levels from the image inwards.

    Args:
        name: The name in diffusers.
        levels: The decoder's levels.
    """
    side, _, inner = name.partition(".")
    if match := _BLOCK.fullmatch(inner):
        way, kind, rest = match[1], match[3], match[5]
        level = int(match[2]) if way == "down" else levels - 1 - int(match[2])
        layer = f"block.{match[4]}" if kind == "resnets" else f"{way}sample"
        return f"{side}.{way}.{level}.{layer}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
    if match := _MIDDLE.fullmatch(inner):
        if match[1] == "resnets":
            return f"{side}.mid.block_{int(match[2]) + 1}.{match[3]}"
        return f"{side}.mid.attn_1.{_replace_prefix(match[3], _VAE_ATTENTION)}"
    names: dict[str, str] = _diffusers_mapping()["vae"]
    return names[name]


def text_encoder_2_name(name: str) -> str:
    """Returns the original name of a tensor of the second text encoder.

    Args:
        name: The name in transformers.
    """
    layer = name.removeprefix("text_model.encoder.layers.")
    if layer == name:
        names: dict[str, str] = _diffusers_mapping()["openclip"]["layers"]
        return names[name]
    number, _, rest = layer.partition(".")
    return f"transformer.resblocks.{number}.{_replace_prefix(rest, _TEXT_2_LAYER)}"


def _replace_prefix(name: str, prefixes: Mapping[str, str]) -> str:
    for prefix, original in prefixes.items():
        if name == prefix or name.startswith(f"{prefix}."):
            return original + name[len(prefix) :]
    return name


def _diffusers_mapping() -> dict[str, Any]:
    """Returns diffusers' mapping from its own names to the original ones, for tensors outside blocks."""
    from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING

    names: dict[str, Any] = DIFFUSERS_TO_LDM_MAPPING
    return names
