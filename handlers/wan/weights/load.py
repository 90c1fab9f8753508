"""Loads WAN 2.1 from a diffusers folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handlers.wan.weights.vace import text_view
from shared.models.diffusers_folder import TYPED_TEXT, component_files, load_scheduler, read_config, silence_libraries
from shared.models.load import load_network, load_tokenizer
from shared.models.prefetch import prefetched
from shared.settings import SettingsError


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
    _check_wan(read_config(folder / "model_index.json"))
    with prefetched(component_files(folder, ("text_encoder", "transformer", "vae"), half=False)):
        silence_libraries()
        from diffusers import AutoencoderKLWan, WanTransformer3DModel, WanVACETransformer3DModel
        from transformers import AutoTokenizer, UMT5EncoderModel

        encoder = load_network(UMT5EncoderModel, folder / "text_encoder", name="wan/text_encoder", device=device, dtype=dtype)
        is_vace = read_config(folder / "transformer" / "config.json").get("_class_name") == WanVACETransformer3DModel.__name__
        kind = WanVACETransformer3DModel if is_vace else WanTransformer3DModel
        transformer = load_network(kind, folder / "transformer", name="wan/transformer", device=device, dtype=dtype)
        vae = load_network(AutoencoderKLWan, folder / "vae", name="wan/vae", device=device, dtype=torch.float32)
    rows = encoder.config.vocab_size
    tokenizer = load_tokenizer(AutoTokenizer, folder / "tokenizer", name="wan/tokenizer", rows=rows, needs=("eos", "pad"), **TYPED_TEXT)
    parts = {"tokenizer": tokenizer, "text_encoder": encoder, "vae": vae, "scheduler": load_scheduler(folder / "scheduler")}
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
        from handlers.wan.weights.vace_pipeline import RoomyVacePipeline

        return WanPipelines(text, RoomyVacePipeline(transformer=transformer, **parts))
    if transformer.config.in_channels == parts["vae"].config.z_dim:
        return WanPipelines(WanPipeline(transformer=transformer, **parts))
    from handlers.wan.weights.image_to_video import load_image_to_video

    return WanPipelines(pictures=load_image_to_video(folder, transformer, device, parts))
