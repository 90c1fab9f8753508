"""Converts an SDXL diffusers folder to a single-file checkpoint in the original (Stability AI) layout.

`python -m builder.weights.make_single_file FOLDER FILE` renames tensors and, where the layouts differ, concatenates or transposes them; no
value changes. It is the exact inverse of `StableDiffusionXLPipeline.from_single_file`. Scheduler and tokenizers are not part of the format.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.command_line import command_parser
from handlers.sdxl.weights.checkpoint import PREFIXES
from handlers.sdxl.weights.original_names import text_encoder_2_name, unet_name, vae_name
from shared.weights.folders import missing_files, weight_files

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = dict[str, Tensor]

_UNET, _VAE, _TEXT, _TEXT_2 = (PREFIXES[part] for part in ("unet", "vae", "text_encoder", "text_encoder_2"))
_QKV = re.compile(r"(.+)\.[qkv]_proj\.(weight|bias)")


class NotSdxl(Exception):
    """The folder is not a complete SDXL pipeline."""


def make_single_file(folder: Path, file: Path) -> None:
    """Writes the checkpoint atomically.

    Args:
        folder: An SDXL pipeline in the diffusers layout. Tensors keep their dtypes; full precision is read if a folder has both variants.
        file: The `.safetensors` file to write.

    Raises:
        NotSdxl: The folder is incomplete or contains another model.
    """
    index = _read(folder / "model_index.json")
    if missing_files(folder, "diffusers") or index.get("_class_name") != "StableDiffusionXLPipeline":
        raise NotSdxl(f"{folder} is not a complete StableDiffusionXLPipeline folder.")
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.stem}-") as scratch:
        new = Path(scratch, "new")
        save_file(single_file_tensors(folder), new, metadata=_metadata(folder))
        new.chmod(0o644)  # a container may run as another user
        os.replace(new, file)


def single_file_tensors(folder: Path) -> Tensors:
    """Returns a folder's tensors by their names in the original layout."""
    unet, vae = (_read(folder / part / "config.json") for part in ("unet", "vae"))
    return {
        **{
            _UNET + unet_name(name, unet["layers_per_block"], _has_attention(unet)): tensor
            for name, tensor in _load(folder / "unet").items()
        },
        **_original_vae(_load(folder / "vae"), len(vae["up_block_types"])),
        # Newer versions of transformers dropped this prefix from CLIPTextModel; checkpoints still have it.
        **{f"{_TEXT}text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in _load(folder / "text_encoder").items()},
        **_original_text_encoder_2(_load(folder / "text_encoder_2")),
    }


def _has_attention(config: Mapping[str, Any]) -> tuple[bool, ...]:
    return tuple("CrossAttn" in kind for kind in config["up_block_types"])


def _original_vae(tensors: Tensors, levels: int) -> Tensors:
    # Linear layers of diffusers' attention are 1 × 1 convolutions in the original.
    return {
        _VAE + vae_name(name, levels): tensor[:, :, None, None] if ".attentions." in name and tensor.ndim == 2 else tensor
        for name, tensor in tensors.items()
    }


def _original_text_encoder_2(tensors: Tensors) -> Tensors:
    import torch

    translated: Tensors = {}
    for name, tensor in tensors.items():
        if match := _QKV.fullmatch(name):
            parts = [tensors[f"{match[1]}.{part}_proj.{match[2]}"] for part in "qkv"]
            translated[f"{text_encoder_2_name(match[1])}.in_proj_{match[2]}"] = torch.cat(parts)
        else:
            # The original stores the projection matrix transposed.
            translated[text_encoder_2_name(name)] = tensor.T.contiguous() if name == "text_projection.weight" else tensor
    return {_TEXT_2 + name: tensor for name, tensor in translated.items()}


def _metadata(folder: Path) -> dict[str, str]:
    """Returns the metadata by which tools identify checkpoints: https://github.com/Stability-AI/ModelSpec."""
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
    parser = command_parser("make_single_file", __doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="an SDXL pipeline in the diffusers layout")
    parser.add_argument("file", type=Path, metavar="FILE", help="the .safetensors file to write")
    options = parser.parse_args(arguments)
    try:
        make_single_file(options.folder, options.file)
    except NotSdxl as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.file}  {options.file.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
