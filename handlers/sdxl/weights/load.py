"""Loads SDXL from a diffusers folder or from a single-file checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from handlers.sdxl.weights.checkpoint import configuration_of, load_part
from shared.models.diffusers_folder import TYPED_TEXT, component_files, load_scheduler, read_config, silence_libraries
from shared.models.load import load_network, load_tokenizer
from shared.models.prefetch import prefetched

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


def load_sdxl(weights: Path, device: torch.device, dtype: torch.dtype) -> StableDiffusionXLPipeline:
    """Loads SDXL.

    Args:
        weights: A complete diffusers folder, or a checkpoint in one `.safetensors` file. Such a file has no configuration and no
            tokenizers: they come from the folder of its name beside it, or are the published ones.
        device: Where it goes.
        dtype: The precision of the UNet and the text encoders. A VAE that overflows in half precision is loaded in float32, so latents
            must be given to it as `latents.to(pipeline.vae.dtype)`.

    Returns:
        The pipeline, frozen, without a progress bar and without a watermark.

    Raises:
        SettingsError: The weights are damaged, incomplete or of another model.
    """
    single = weights.is_file()
    folder = configuration_of(weights) if single else weights
    components = ("text_encoder", "text_encoder_2", "unet", "vae")
    with prefetched([weights] if single else component_files(folder, components, half=dtype == torch.float16)):
        silence_libraries()
        from diffusers import StableDiffusionXLPipeline

        dtypes = dict.fromkeys(components, dtype) | {"vae": _vae_dtype(folder / "vae", dtype)}
        parts = {name: _sdxl_network(weights, folder, name, device, dtypes[name]) for name in components}
    tokenizers = {f"tokenizer{suffix}": _clip_tokenizer(folder, suffix, parts[f"text_encoder{suffix}"]) for suffix in ("", "_2")}
    zeros = read_config(folder / "model_index.json").get("force_zeros_for_empty_prompt", True)
    scheduler = load_scheduler(folder / "scheduler")
    pipeline = StableDiffusionXLPipeline(
        **parts, **tokenizers, scheduler=scheduler, force_zeros_for_empty_prompt=zeros, add_watermarker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _sdxl_network(weights: Path, folder: Path, component: str, device: torch.device, dtype: torch.dtype) -> Any:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    kinds = {
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
    }
    if weights.is_file():
        return load_part(kinds[component], weights, folder / component, component=component, device=device, dtype=dtype)
    return load_network(kinds[component], folder / component, name=f"sdxl/{component}", device=device, dtype=dtype)


def _vae_dtype(folder: Path, dtype: torch.dtype) -> torch.dtype:
    overflows = read_config(folder / "config.json").get("force_upcast", True)
    return torch.float32 if dtype == torch.float16 and overflows else dtype


def _clip_tokenizer(folder: Path, suffix: str, encoder: Any) -> Any:
    from transformers import CLIPTokenizer

    name, rows = f"tokenizer{suffix}", encoder.config.vocab_size
    return load_tokenizer(CLIPTokenizer, folder / name, name=f"sdxl/{name}", rows=rows, needs=("bos", "eos", "pad"), **TYPED_TEXT)
