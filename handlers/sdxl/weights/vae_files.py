"""A VAE that takes the place of SDXL's own: a diffusers folder, or one file in the original spelling or in that of diffusers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from handlers.sdxl.weights.checkpoint import PREFIXES, Source, load_from_file
from handlers.sdxl.weights.original_names import vae_name
from shared.models.load import load_network, unusable


def load_vae(path: Path, own: Mapping[str, Any], *, name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Loads a VAE for SDXL's latents.

    Args:
        path: A folder, or a `.safetensors` file. A file does not say how it is made: that is taken from the checkpoint's own.
        own: The configuration of the checkpoint's own VAE.
        name: What messages and log lines call it.
        device: Where it goes.
        dtype: The precision of SDXL. In half precision the VAE is loaded in float32, unless its folder says that it does not overflow.

    Returns:
        An `AutoencoderKL`, frozen and in evaluation mode.

    Raises:
        SettingsError: It is damaged, incomplete, or made for other latents.
    """
    from diffusers import AutoencoderKL

    if path.is_file():
        precision = torch.float32 if dtype == torch.float16 else dtype
        prefix, original = _spelling(path, name)

        def source(key: str, config: Any) -> Source:
            return Source(prefix + (vae_name(key, len(config.up_block_types)) if original else key))

        return load_from_file(lambda: _empty(AutoencoderKL, own), source, path, name=name, device=device, dtype=precision)
    overflows = _config(path, own, name).get("force_upcast", True)
    precision = torch.float32 if dtype == torch.float16 and overflows else dtype
    return load_network(AutoencoderKL, path, name=name, device=device, dtype=precision)


def _spelling(file: Path, name: str) -> tuple[str, bool]:
    """How the tensors' names begin, and whether they are the original ones."""
    try:
        with safe_open(file, "pt") as opened:
            keys = list(opened.keys())
    except (OSError, SafetensorError) as error:
        raise unusable(name, error) from error
    prefix = PREFIXES["vae"] if any(key.startswith(PREFIXES["vae"]) for key in keys) else ""
    return prefix, not any(key.startswith(f"{prefix}decoder.up_blocks.") for key in keys)


def _config(folder: Path, own: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    try:
        config: Mapping[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unusable(name, error) from error
    if (config.get("latent_channels"), len(config.get("block_out_channels", ()))) != (
        own["latent_channels"],
        len(own["block_out_channels"]),
    ):
        raise unusable(name, ValueError("it is made for latents of another shape"))
    return config


def _empty(kind: Any, config: Mapping[str, Any]) -> Any:
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return kind.from_config(config)
