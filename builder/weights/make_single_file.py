"""Writes an SDXL folder as one checkpoint file in the original layout, the one that SDXL models are mostly published in.

`python -m builder.weights.make_single_file FOLDER FILE` renames tensors and, where the layouts differ, joins or transposes them; no number changes.
It undoes exactly what `StableDiffusionXLPipeline.from_single_file` does. The scheduler and the tokenizers have no place in such a file.
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

from builder.command_line import described, command_parser
from handlers.sdxl.weights.checkpoint import PREFIXES
from handlers.sdxl.weights.original_names import text_encoder_2_name, unet_name, vae_name
from shared.weights.folders import missing_files, weight_files

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = dict[str, Tensor]

_UNET, _VAE, _TEXT, _TEXT_2 = (PREFIXES[part] for part in ("unet", "vae", "text_encoder", "text_encoder_2"))
_JOINED = re.compile(r"(.+)\.[qkv]_proj\.(weight|bias)")


class NotSdxl(Exception):
    """The folder is not a complete SDXL pipeline."""


def make_single_file(folder: Path, file: Path) -> None:
    """Writes the checkpoint. It appears under its name at once and complete.

    Args:
        folder: An SDXL pipeline in the diffusers layout. Its tensors keep their types; full precision is taken where it has both.
        file: The `.safetensors` file to write.

    Raises:
        NotSdxl: The folder lacks files, or holds another kind of model.
    """
    index = _read(folder / "model_index.json")
    if missing_files(folder, "diffusers") or index.get("_class_name") != "StableDiffusionXLPipeline":
        raise NotSdxl(f"{folder} is no complete StableDiffusionXLPipeline folder.")
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


def _attending(config: Mapping[str, Any]) -> tuple[bool, ...]:
    return tuple("CrossAttn" in kind for kind in config["up_block_types"])


def _original_vae(tensors: Tensors, levels: int) -> Tensors:
    # What is linear in an attention layer of diffusers is a convolution with a 1 × 1 kernel in the original.
    return {
        _VAE + vae_name(name, levels): tensor[:, :, None, None] if ".attentions." in name and tensor.ndim == 2 else tensor
        for name, tensor in tensors.items()
    }


def _original_text_encoder_2(tensors: Tensors) -> Tensors:
    import torch

    translated: Tensors = {}
    for name, tensor in tensors.items():
        if match := _JOINED.fullmatch(name):
            parts = [tensors[f"{match[1]}.{part}_proj.{match[2]}"] for part in "qkv"]
            translated[f"{text_encoder_2_name(match[1])}.in_proj_{match[2]}"] = torch.cat(parts)
        else:
            # The original multiplies by the projection from the other side.
            translated[text_encoder_2_name(name)] = tensor.T.contiguous() if name == "text_projection.weight" else tensor
    return {_TEXT_2 + name: tensor for name, tensor in translated.items()}


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
    parser = command_parser("make_single_file", __doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="an SDXL pipeline in the diffusers layout")
    parser.add_argument("file", type=Path, metavar="FILE", help="the .safetensors file to write")
    options = parser.parse_args(arguments)
    try:
        make_single_file(options.folder, options.file)
    except NotSdxl as error:
        print(error, file=sys.stderr)
        return 1
    print(described(options.file))
    return 0


if __name__ == "__main__":
    sys.exit(main())
