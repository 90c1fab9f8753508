"""Loads WAN 2.1 from a diffusers folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handlers.wan.weights.vace import text_to_video_view
from shared.models.diffusers_folder import LITERAL_SPECIAL_TOKENS, component_files, load_scheduler, read_config, silence_libraries
from shared.models.load import load_network
from shared.models.prefetch import prefetched
from shared.models.tokenizers import load_tokenizer
from shared.weights.errors import WeightsError


@dataclass(frozen=True)
class WanPipelines:
    """The pipelines that the folder's transformer supports. They share all tensors.

    Attributes:
        text_to_video: None where the transformer requires an image.
        vace: Text-to-video with reference images.
        image_to_video: Starts from an image, and may end with one.
    """

    text_to_video: Any = None
    vace: Any = None
    image_to_video: Any = None

    @property
    def all(self) -> tuple[Any, ...]:
        """The ones that exist, the one with the most layers first."""
        return tuple(pipeline for pipeline in (self.vace, self.text_to_video, self.image_to_video) if pipeline is not None)

    @property
    def vae(self) -> Any:
        """The VAE, which they share."""
        return self.all[0].vae

    @property
    def device(self) -> torch.device:
        """The device that they run on."""
        device: torch.device = self.vae.device
        return device


def load_wan(folder: Path, device: torch.device, dtype: torch.dtype) -> WanPipelines:
    """Loads WAN 2.1.

    The folder's transformer may be the text-to-video one, VACE's, which supports both, or an image-to-video one.

    Args:
        folder: A complete diffusers folder.
        device: The device to load it to.
        dtype: The precision of the text encoder and of the transformer, some layers of which stay in float32. The VAE is in float32.

    Returns:
        The pipelines, frozen and without progress bars.

    Raises:
        WeightsError: The folder is damaged, incomplete or holds another model.
    """
    _check_version(read_config(folder / "model_index.json"))
    with prefetched(component_files(folder, ("text_encoder", "transformer", "vae"), half=False)):
        silence_libraries()
        from diffusers import AutoencoderKLWan, WanTransformer3DModel, WanVACETransformer3DModel
        from transformers import AutoTokenizer, UMT5EncoderModel

        encoder = load_network(UMT5EncoderModel, folder / "text_encoder", name="wan/text_encoder", device=device, dtype=dtype)
        is_vace = read_config(folder / "transformer" / "config.json").get("_class_name") == WanVACETransformer3DModel.__name__
        kind = WanVACETransformer3DModel if is_vace else WanTransformer3DModel
        transformer = load_network(kind, folder / "transformer", name="wan/transformer", device=device, dtype=dtype)
        vae = load_network(AutoencoderKLWan, folder / "vae", name="wan/vae", device=device, dtype=torch.float32)
    tokenizer = load_tokenizer(
        AutoTokenizer,
        folder / "tokenizer",
        name="wan/tokenizer",
        vocabulary_size=encoder.config.vocab_size,
        required_tokens=("eos", "pad"),
        **LITERAL_SPECIAL_TOKENS,
    )
    components = {"tokenizer": tokenizer, "text_encoder": encoder, "vae": vae, "scheduler": load_scheduler(folder / "scheduler")}
    pipelines = _assemble(folder, transformer, device, components)
    for pipeline in pipelines.all:
        pipeline.set_progress_bar_config(disable=True)
    return pipelines


def _check_version(index: Mapping[str, Any]) -> None:
    """Raises `WeightsError` for later versions of WAN, which have two transformers or a timestep per latent frame."""
    second = index.get("transformer_2")
    if (isinstance(second, list) and second[0] is not None) or index.get("expand_timesteps"):
        raise WeightsError("wan", "they are of a later version than WAN 2.1", advice="Configure a folder of WAN 2.1.")


def _assemble(folder: Path, transformer: Any, device: torch.device, components: dict[str, Any]) -> WanPipelines:
    from diffusers import WanPipeline, WanVACETransformer3DModel

    if isinstance(transformer, WanVACETransformer3DModel):
        text_to_video = WanPipeline(transformer=text_to_video_view(transformer), **components)
        from handlers.wan.weights.vace_pipeline import MultiReferenceVacePipeline

        return WanPipelines(text_to_video, MultiReferenceVacePipeline(transformer=transformer, **components))
    if transformer.config.in_channels == components["vae"].config.z_dim:
        return WanPipelines(WanPipeline(transformer=transformer, **components))
    from handlers.wan.weights.image_to_video import load_image_to_video

    return WanPipelines(image_to_video=load_image_to_video(folder, transformer, device, components))
