"""Loads SDXL from a diffusers folder or from a single-file checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from handlers.sdxl.weights.checkpoint import check_tensor_names, config_folder, load_component
from handlers.sdxl.weights.noise_schedule import schedule_problem, scheduler_overrides
from handlers.sdxl.weights.vae_precision import use_half_precision_decoder
from shared.models.device import use_fast_convolutions
from shared.models.diffusers_folder import LITERAL_SPECIAL_TOKENS, component_files, load_scheduler, read_config, silence_libraries
from shared.models.load import load_network
from shared.models.prefetch import prefetched
from shared.models.tokenizers import load_tokenizer
from shared.weights.errors import WeightsError

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


def load_sdxl(weights: Path, device: torch.device, dtype: torch.dtype) -> StableDiffusionXLPipeline:
    """Loads SDXL.

    Args:
        weights: A complete diffusers folder, or a single-file checkpoint, `.safetensors`. The configuration and tokenizers of a checkpoint
            are those of the folder with its name, or else the published ones.
        device: The target device.
        dtype: The precision of the UNet, the text encoders and the VAE's decoder. The encoder of a VAE that overflows in half precision is
            in float32.

    Returns:
        The pipeline, frozen, without progress bar and watermark.

    Raises:
        WeightsError: The weights are damaged, incomplete or of another model.
    """
    is_checkpoint = weights.is_file()
    folder = config_folder(weights) if is_checkpoint else weights
    overrides = scheduler_overrides(weights) if is_checkpoint else {}
    if is_checkpoint:
        check_tensor_names(weights)
    components = ("text_encoder", "text_encoder_2", "unet", "vae")
    with prefetched([weights] if is_checkpoint else component_files(folder, components, half=dtype == torch.float16)):
        silence_libraries()
        from diffusers import StableDiffusionXLPipeline

        dtypes = dict.fromkeys(components, dtype) | {"vae": _vae_dtype(folder / "vae", dtype)}
        networks = {name: _load_network(weights, folder, name, device, dtypes[name]) for name in components}
    if dtypes["vae"] != dtype:
        use_half_precision_decoder(networks["vae"])
    for name in ("unet", "vae"):
        use_fast_convolutions(networks[name])
    tokenizers = {f"tokenizer{suffix}": _clip_tokenizer(folder, suffix, networks[f"text_encoder{suffix}"]) for suffix in ("", "_2")}
    zeros = read_config(folder / "model_index.json").get("force_zeros_for_empty_prompt", True)
    scheduler = _load_scheduler(folder / "scheduler", overrides)
    pipeline = StableDiffusionXLPipeline(
        **networks, **tokenizers, scheduler=scheduler, force_zeros_for_empty_prompt=zeros, add_watermarker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _load_network(weights: Path, folder: Path, component: str, device: torch.device, dtype: torch.dtype) -> Any:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    classes = {
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
    }
    if weights.is_file():
        return load_component(classes[component], weights, folder / component, component=component, device=device, dtype=dtype)
    return load_network(classes[component], folder / component, name=f"sdxl/{component}", device=device, dtype=dtype)


def _load_scheduler(folder: Path, overrides: Mapping[str, Any]) -> Any:
    """Loads the folder's scheduler, with the values that a checkpoint determines."""
    scheduler = load_scheduler(folder)
    config = read_config(folder / "scheduler_config.json") | dict(overrides)
    if problem := schedule_problem(type(scheduler), config):
        name = type(scheduler).__name__
        raise WeightsError("sdxl", f"{name} cannot sample a model that was trained with {problem}", advice="Configure another scheduler.")
    return type(scheduler).from_config(scheduler.config, **overrides) if overrides else scheduler


def _vae_dtype(folder: Path, dtype: torch.dtype) -> torch.dtype:
    force_upcast = read_config(folder / "config.json").get("force_upcast", True)
    return torch.float32 if dtype == torch.float16 and force_upcast else dtype


def _clip_tokenizer(folder: Path, suffix: str, encoder: Any) -> Any:
    from transformers import CLIPTokenizer

    name = f"tokenizer{suffix}"
    return load_tokenizer(
        CLIPTokenizer,
        folder / name,
        name=f"sdxl/{name}",
        vocabulary_size=encoder.config.vocab_size,
        required_tokens=("bos", "eos", "pad"),
        **LITERAL_SPECIAL_TOKENS,
    )
