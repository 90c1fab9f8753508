"""VAEs for SDXL's latents: diffusers folders, and single files with the tensor names of the original or of diffusers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from handlers.sdxl.weights.checkpoint import PREFIXES, TensorSource, load_from_file
from handlers.sdxl.weights.original_names import vae_name
from handlers.sdxl.weights.vae_precision import use_half_precision_decoder
from shared.models.device import use_fast_convolutions
from shared.models.load import load_network
from shared.weights.errors import WeightsError, weights_error

# diffusers' values for what a configuration does not name: the scaling factor is that of SD 1.5.
_LATENT_SCALES: Mapping[str, Any] = {"scaling_factor": 0.18215, "shift_factor": None, "latents_mean": None, "latents_std": None}


def load_vae(path: Path, own: Mapping[str, Any], *, name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Loads a VAE.

    Args:
        path: A folder, or a `.safetensors` file. A file has no configuration; that of the checkpoint's own VAE applies.
        own: The configuration of the checkpoint's own VAE.
        name: The VAE's name in messages and log lines.
        device: The target device.
        dtype: SDXL's precision. In half precision the VAE's encoder is in float32, unless its folder's `force_upcast` is false.

    Returns:
        An `AutoencoderKL`, frozen and in evaluation mode.

    Raises:
        WeightsError: The VAE is damaged, incomplete, or made for other latents.
    """
    from diffusers import AutoencoderKL

    if path.is_file():
        precision = torch.float32 if dtype == torch.float16 else dtype
        prefix, original = _layout(path, name)

        def source(key: str, config: Any) -> TensorSource:
            return TensorSource(prefix + (vae_name(key, len(config.up_block_types)) if original else key))

        vae = load_from_file(lambda: _empty(AutoencoderKL, own), source, path, name=name, device=device, dtype=precision)
    else:
        force_upcast = _config(path, own, name).get("force_upcast", True)
        precision = torch.float32 if dtype == torch.float16 and force_upcast else dtype
        vae = load_network(AutoencoderKL, path, name=name, device=device, dtype=precision)
    if precision != dtype:
        use_half_precision_decoder(vae)
    use_fast_convolutions(vae)
    return vae


def _layout(file: Path, name: str) -> tuple[str, bool]:
    """Returns the prefix of the tensor names, and whether they are the original implementation's."""
    try:
        with safe_open(file, "pt") as opened:
            keys = list(opened.keys())
    except (OSError, SafetensorError) as error:
        raise weights_error(name, error) from error
    prefix = PREFIXES["vae"] if any(key.startswith(PREFIXES["vae"]) for key in keys) else ""
    return prefix, not any(key.startswith(f"{prefix}decoder.up_blocks.") for key in keys)


def _config(folder: Path, own: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    try:
        config: Mapping[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise weights_error(name, error) from error
    if (config.get("latent_channels"), len(config.get("block_out_channels", ()))) != (
        own["latent_channels"],
        len(own["block_out_channels"]),
    ):
        raise WeightsError(name, "it was made for latents of another shape")
    for key, default in _LATENT_SCALES.items():
        if (theirs := config.get(key, default)) != (ours := own.get(key)):
            raise WeightsError(name, f"it was made for other latents: its {key} is {theirs}, and SDXL's is {ours}")
    return config


def _empty(cls: Any, config: Mapping[str, Any]) -> Any:
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return cls.from_config(config)
