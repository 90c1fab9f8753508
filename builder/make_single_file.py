"""Writes an SDXL folder as one checkpoint file in the original layout, the one that SDXL models are mostly published in.

`python -m builder.make_single_file FOLDER FILE` renames tensors and, where the layouts differ, joins or transposes them; no number changes.
It undoes exactly what `StableDiffusionXLPipeline.from_single_file` does. The scheduler and the tokenizers have no place in such a file.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.weights.folders import missing_files, weight_files

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = dict[str, Tensor]

_UNET = "model.diffusion_model."
_VAE = "first_stage_model."
_TEXT = "conditioner.embedders.0.transformer."
_TEXT_2 = "conditioner.embedders.1.model."

# Inside of one layer. The left side is what diffusers or transformers calls it.
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
_JOINED = re.compile(r"(.+)\.[qkv]_proj\.(weight|bias)")


class NoSdxl(Exception):
    """The folder is not a complete SDXL pipeline."""


def make_single_file(folder: Path, file: Path) -> None:
    """Writes the checkpoint. It appears under its name at once and complete.

    Args:
        folder: An SDXL pipeline in the diffusers layout. Its tensors keep their types; full precision is taken where it has both.
        file: The `.safetensors` file to write.

    Raises:
        NoSdxl: The folder lacks files, or holds another kind of model.
    """
    index = _read(folder / "model_index.json")
    if missing_files(folder, "diffusers") or index.get("_class_name") != "StableDiffusionXLPipeline":
        raise NoSdxl(f"{folder} is no complete StableDiffusionXLPipeline folder.")
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.stem}-") as scratch:
        new = Path(scratch, "new")
        save_file(single_file_tensors(folder), new, metadata=_metadata(folder))
        new.chmod(0o644)  # a container may run as somebody else
        os.replace(new, file)


def single_file_tensors(folder: Path) -> Tensors:
    """Reads a folder's tensors under the names of the original layout."""
    unet, vae = (_read(folder / part / "config.json") for part in ("unet", "vae"))
    return {
        **{_UNET + unet_name(name, unet["layers_per_block"], _attending(unet)): tensor for name, tensor in _load(folder / "unet").items()},
        **_original_vae(_load(folder / "vae"), len(vae["up_block_types"])),
        # CLIPTextModel has lost this prefix in newer versions of transformers, and checkpoints still have it.
        **{f"{_TEXT}text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in _load(folder / "text_encoder").items()},
        **_original_text_encoder_2(_load(folder / "text_encoder_2")),
    }


def unet_name(name: str, depth: int, attending: tuple[bool, ...]) -> str:
    """Translates the name of one of the UNet's tensors.

    The original numbers its blocks through, each sampler included: a level takes `depth` + 1 numbers on the way down, where the first
    convolution is number 0, and as many on the way up.

    Args:
        name: As diffusers calls it.
        depth: `layers_per_block` of the configuration.
        attending: For each level on the way up, whether it has attention. Its sampler then comes after that.
    """
    if match := _BLOCK.fullmatch(name):
        way, kind, rest = match[1], match[3], match[5]
        level, layer = int(match[2]), int(match[4])
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * (depth + 1)}.0.{rest.replace('conv', 'op')}"
        if kind == "upsamplers":
            return f"output_blocks.{level * (depth + 1) + depth}.{2 if attending[level] else 1}.{rest}"
        number = level * (depth + 1) + layer
        block = f"input_blocks.{number + 1}" if way == "down" else f"output_blocks.{number}"
        return f"{block}.0.{_renamed(rest, _UNET_RESNET)}" if kind == "resnets" else f"{block}.1.{rest}"
    if match := _MIDDLE.fullmatch(name):
        if match[1] == "resnets":
            return f"middle_block.{2 * int(match[2])}.{_renamed(match[3], _UNET_RESNET)}"
        return f"middle_block.1.{match[3]}"
    outside: dict[str, str] = _names_of_diffusers()["unet"]["layers"] | _names_of_diffusers()["unet"]["addition_embed_type"]
    return outside[name]


def _attending(config: Mapping[str, Any]) -> tuple[bool, ...]:
    return tuple("CrossAttn" in kind for kind in config["up_block_types"])


def _original_vae(tensors: Tensors, levels: int) -> Tensors:
    # What is linear in an attention layer of diffusers is a convolution with a 1 × 1 kernel in the original.
    return {
        _VAE + vae_name(name, levels): tensor[:, :, None, None] if ".attentions." in name and tensor.ndim == 2 else tensor
        for name, tensor in tensors.items()
    }


def vae_name(name: str, levels: int) -> str:
    """Translates the name of one of the VAE's tensors. The original counts the decoder's levels from the picture inwards.

    Args:
        name: As diffusers calls it.
        levels: How many the decoder has.
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
        return f"{side}.mid.attn_1.{_renamed(match[3], _VAE_ATTENTION)}"
    names: dict[str, str] = _names_of_diffusers()["vae"]
    return names[name]


def _original_text_encoder_2(tensors: Tensors) -> Tensors:
    import torch

    translated: Tensors = {}
    for name, tensor in tensors.items():
        if match := _JOINED.fullmatch(name):
            parts = [tensors[f"{match[1]}.{part}_proj.{match[2]}"] for part in "qkv"]
            translated[f"{_text_2_name(match[1])}.in_proj_{match[2]}"] = torch.cat(parts)
        else:
            # The original multiplies by the projection from the other side.
            translated[_text_2_name(name)] = tensor.T.contiguous() if name == "text_projection.weight" else tensor
    return {_TEXT_2 + name: tensor for name, tensor in translated.items()}


def _text_2_name(name: str) -> str:
    layer = name.removeprefix("text_model.encoder.layers.")
    if layer == name:
        names: dict[str, str] = _names_of_diffusers()["openclip"]["layers"]
        return names[name]
    number, _, rest = layer.partition(".")
    return f"transformer.resblocks.{number}.{_renamed(rest, _TEXT_2_LAYER)}"


def _renamed(name: str, beginnings: Mapping[str, str]) -> str:
    for ours, original in beginnings.items():
        if name == ours or name.startswith(f"{ours}."):
            return original + name[len(ours) :]
    return name


def _names_of_diffusers() -> dict[str, Any]:
    """What diffusers says about tensors outside of blocks: its own names → the original ones."""
    from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING

    names: dict[str, Any] = DIFFUSERS_TO_LDM_MAPPING
    return names


def _metadata(folder: Path) -> dict[str, str]:
    """The header by which programs tell checkpoints apart: https://github.com/Stability-AI/ModelSpec."""
    velocity = _read(folder / "scheduler" / "scheduler_config.json").get("prediction_type") == "v_prediction"
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": folder.name,
        "modelspec.prediction_type": "v" if velocity else "epsilon",
    }


def _load(folder: Path) -> Tensors:
    from safetensors.torch import load_file

    return {name: tensor for path in weight_files(folder) for name, tensor in load_file(path).items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return content


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m builder.make_single_file", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="an SDXL pipeline in the diffusers layout")
    parser.add_argument("file", type=Path, metavar="FILE", help="the .safetensors file to write")
    options = parser.parse_args(arguments)
    try:
        make_single_file(options.folder, options.file)
    except NoSdxl as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.file}  {options.file.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
