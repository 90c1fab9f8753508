"""SDXL from its diffusers folder or from one file, WAN from its diffusers folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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
    from diffusers import StableDiffusionXLPipeline

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
    """WAN as it is called. Which of the pipelines there are depends on the folder's transformer; no tensor is there twice.

    Attributes:
        text: Video from text alone. None where the transformer cannot do without a picture.
        vace: The same with pictures to go by.
        pictures: Video that begins with a picture, and may end with one.
    """

    text: Any = None
    vace: Any = None
    pictures: Any = None

    @property
    def all(self) -> tuple[Any, ...]:
        """Those that there are, the one with most layers first."""
        return tuple(pipeline for pipeline in (self.vace, self.text, self.pictures) if pipeline is not None)

    @property
    def vae(self) -> Any:
        """The VAE, the same in all."""
        return self.all[0].vae

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = self.vae.device
        return device


def load_wan(folder: Path, device: torch.device, dtype: torch.dtype) -> WanPipelines:
    """Loads WAN 2.1.

    The folder's transformer may be the plain one; VACE's, which is both; or one of those that begin with a picture.

    Args:
        folder: A complete diffusers folder.
        device: Where it goes.
        dtype: The precision of the transformer, some layers of which stay in float32, and of the text encoder. The VAE is in float32.

    Returns:
        The pipelines, frozen and without progress bars.

    Raises:
        SettingsError: The folder is damaged, incomplete or holds another model.
    """
    _check_wan(_read(folder / "model_index.json"))
    with prefetched(_files(folder, ("text_encoder", "transformer", "vae"), half=False)):
        _quiet()
        from diffusers import AutoencoderKLWan, WanTransformer3DModel, WanVACETransformer3DModel
        from transformers import AutoTokenizer, UMT5EncoderModel

        encoder = load_network(UMT5EncoderModel, folder / "text_encoder", name="wan/text_encoder", device=device, dtype=dtype)
        is_vace = _read(folder / "transformer" / "config.json").get("_class_name") == WanVACETransformer3DModel.__name__
        kind = WanVACETransformer3DModel if is_vace else WanTransformer3DModel
        transformer = load_network(kind, folder / "transformer", name="wan/transformer", device=device, dtype=dtype)
        vae = load_network(AutoencoderKLWan, folder / "vae", name="wan/vae", device=device, dtype=torch.float32)
    rows = encoder.config.vocab_size
    tokenizer = load_tokenizer(AutoTokenizer, folder / "tokenizer", name="wan/tokenizer", rows=rows, needs=("eos", "pad"), **_TYPED)
    parts = {"tokenizer": tokenizer, "text_encoder": encoder, "vae": vae, "scheduler": _load_scheduler(folder / "scheduler")}
    pipelines = _wan_pipelines(folder, transformer, device, parts)
    for pipeline in pipelines.all:
        pipeline.set_progress_bar_config(disable=True)
    return pipelines


def _check_wan(index: Mapping[str, Any]) -> None:
    """Raises `SettingsError` for WAN's later models: two transformers that take turns, or a timestep for each latent."""
    second = index.get("transformer_2")
    if (isinstance(second, list) and second[0] is not None) or index.get("expand_timesteps"):
        raise SettingsError("The weights are of a WAN that this worker does not know: 2.1 has one transformer. Name a folder of WAN 2.1.")


def _wan_pipelines(folder: Path, transformer: Any, device: torch.device, parts: dict[str, Any]) -> WanPipelines:
    from diffusers import WanPipeline, WanVACETransformer3DModel

    if isinstance(transformer, WanVACETransformer3DModel):
        text = WanPipeline(transformer=text_view(transformer), **parts)
        from shared.models.vace_pipeline import RoomyVacePipeline

        return WanPipelines(text, RoomyVacePipeline(transformer=transformer, **parts))
    if transformer.config.in_channels == parts["vae"].config.z_dim:
        return WanPipelines(WanPipeline(transformer=transformer, **parts))
    from shared.models.image_to_video import load_image_to_video

    return WanPipelines(pictures=load_image_to_video(folder, transformer, device, parts))


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
