"""SDXL from its diffusers folder or from one file, WAN from its diffusers folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from shared.models.checkpoint import configuration_of, load_part
from shared.models.load import load_network, load_tokenizer, quiet
from shared.models.prefetch import prefetched
from shared.models.vace import text_view
from shared.settings import SettingsError
from shared.weights.folders import weight_files

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline, WanPipeline, WanVACEPipeline

# What somebody typed stays text: `<|endoftext|>` in a prompt does not end it.
_TYPED = {"split_special_tokens": True}


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
    with prefetched([weights] if single else _files(folder, components, half=dtype == torch.float16)):
        _quiet()
        from diffusers import StableDiffusionXLPipeline

        dtypes = dict.fromkeys(components, dtype) | {"vae": _vae_dtype(folder / "vae", dtype)}
        parts = {name: _sdxl_network(weights, folder, name, device, dtypes[name]) for name in components}
    tokenizers = {f"tokenizer{suffix}": _clip_tokenizer(folder, suffix, parts[f"text_encoder{suffix}"]) for suffix in ("", "_2")}
    zeros = _read(folder / "model_index.json").get("force_zeros_for_empty_prompt", True)
    scheduler = _load_scheduler(folder / "scheduler")
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


@dataclass(frozen=True)
class WanPipelines:
    """WAN as it is called.

    Attributes:
        text: Video from text alone.
        vace: The same with pictures to go by, of the same tensors. None where the folder's transformer has no blocks for them.
    """

    text: WanPipeline
    vace: WanVACEPipeline | None


def load_wan(folder: Path, device: torch.device, dtype: torch.dtype) -> WanPipelines:
    """Loads WAN.

    The folder's transformer may be the plain one or VACE's, which is both: no tensor is there twice.

    Args:
        folder: A complete diffusers folder.
        device: Where it goes.
        dtype: The precision of the transformer, some layers of which stay in float32, and of the text encoder. The VAE is in float32.

    Returns:
        The pipelines, frozen and without progress bars.

    Raises:
        SettingsError: The folder is damaged, incomplete or holds another model.
    """
    with prefetched(_files(folder, ("text_encoder", "transformer", "vae"), half=False)):
        _quiet()
        from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel, WanVACEPipeline, WanVACETransformer3DModel
        from transformers import AutoTokenizer, UMT5EncoderModel

        encoder = load_network(UMT5EncoderModel, folder / "text_encoder", name="wan/text_encoder", device=device, dtype=dtype)
        takes_pictures = _read(folder / "transformer" / "config.json").get("_class_name") == WanVACETransformer3DModel.__name__
        kind = WanVACETransformer3DModel if takes_pictures else WanTransformer3DModel
        transformer = load_network(kind, folder / "transformer", name="wan/transformer", device=device, dtype=dtype)
        vae = load_network(AutoencoderKLWan, folder / "vae", name="wan/vae", device=device, dtype=torch.float32)
    rows = encoder.config.vocab_size
    tokenizer = load_tokenizer(AutoTokenizer, folder / "tokenizer", name="wan/tokenizer", rows=rows, needs=("eos", "pad"), **_TYPED)
    shared = {"tokenizer": tokenizer, "text_encoder": encoder, "vae": vae, "scheduler": _load_scheduler(folder / "scheduler")}
    plain = text_view(transformer) if takes_pictures else transformer
    text = WanPipeline(transformer=plain, **shared)
    vace = WanVACEPipeline(transformer=transformer, **shared) if takes_pictures else None
    for pipeline in (text, vace):
        if pipeline is not None:
            pipeline.set_progress_bar_config(disable=True)
    return WanPipelines(text, vace)


def _quiet() -> None:
    from transformers.utils import logging as transformers_logging

    quiet(transformers_logging)  # before diffusers is imported, which makes transformers talk
    from diffusers.utils import logging as diffusers_logging

    quiet(diffusers_logging)


def _files(folder: Path, parts: tuple[str, ...], *, half: bool) -> Iterator[Path]:
    for part in parts:
        yield from weight_files(folder / part, half=half)


def _vae_dtype(folder: Path, dtype: torch.dtype) -> torch.dtype:
    overflows = _read(folder / "config.json").get("force_upcast", True)
    return torch.float32 if dtype == torch.float16 and overflows else dtype


def _clip_tokenizer(folder: Path, suffix: str, encoder: Any) -> Any:
    from transformers import CLIPTokenizer

    name, rows = f"tokenizer{suffix}", encoder.config.vocab_size
    return load_tokenizer(CLIPTokenizer, folder / name, name=f"sdxl/{name}", rows=rows, needs=("bos", "eos", "pad"), **_TYPED)


def _load_scheduler(folder: Path) -> Any:
    import diffusers

    name = _read(folder / "scheduler_config.json").get("_class_name")
    kind: Any = getattr(diffusers, str(name), None)
    known = isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)
    if not known:
        raise SettingsError(f"The scheduler {name!r} of the weights is not known. Copy them again, or name other ones.")
    return kind.from_pretrained(folder, local_files_only=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read: {type(error).__name__}. Copy them again, or name other ones.") from error
    return content
