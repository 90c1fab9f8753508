"""LoRAs on SDXL's UNet and text encoders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from handlers.sdxl.job_pipeline import JobPipeline
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.original_names import unet_name
from shared.models.lora_names import Layer, LoraTarget, lora_layers
from shared.models.loras import with_loras
from shared.weights.addons import AddonLibrary

_COMPONENTS = ("unet", "text_encoder", "text_encoder_2")

# kohya's scripts, LyCORIS and OneTrainer; diffusers and peft; ComfyUI; the original implementation. Bare names belong to the UNet.
_PREFIXES = {
    **dict.fromkeys(("", "lora_unet", "lycoris", "unet", "diffusion_model", "model_diffusion_model"), "unet"),
    **dict.fromkeys(("lora_te", "lora_te1", "text_encoder", "text_encoder_1", "te1", "clip_l", "text_encoders_clip_l"), "text_encoder"),
    **dict.fromkeys(("text_encoders_clip_l_transformer", "conditioner_embedders_0_transformer"), "text_encoder"),
    **dict.fromkeys(
        ("lora_te2", "text_encoder_2", "te2", "clip_g", "text_encoders_clip_g", "text_encoders_clip_g_transformer"), "text_encoder_2"
    ),
}


def check(request: SdxlRequest, addons: AddonLibrary) -> None:
    """Refuses LoRAs that are not installed.

    Raises:
        ModelUnavailable: Names the field and the alternatives.
    """
    for lora in request.loras:
        addons.find("loras", lora.name)


@contextmanager
def apply(job: JobPipeline, request: SdxlRequest) -> Iterator[None]:
    """Merges the LoRAs into the networks while the body runs. The scales of a LoRA named twice add up.

    Raises:
        ModelUnavailable: A LoRA is unusable. No weight has been changed.
    """
    with with_loras(lora_target(job.pipeline), request.loras, job.addons, job.warn) as scales:
        job.metadata["loras"] = [{"name": name, "scale": scale} for name, scale in scales.items()]
        yield


def lora_target(pipeline: Any) -> LoraTarget:
    """Returns the layers of a pipeline's UNet and text encoders, with the names that trainers use for them.

    Args:
        pipeline: Any SDXL pipeline.
    """
    networks = {component: getattr(pipeline, component) for component in _COMPONENTS}
    layers = {layer: module for component, network in networks.items() for layer, module in lora_layers(component, network).items()}
    return LoraTarget("SDXL", layers, _PREFIXES, _original_names(pipeline.unet, layers))


def _original_names(unet: Any, layers: Iterable[Layer]) -> dict[Layer, str]:
    """The names of a UNet's layers in the original implementation."""
    has_attention = tuple("CrossAttn" in kind for kind in unet.config.up_block_types)
    return {
        (component, name): unet_name(f"{name}.weight", unet.config.layers_per_block, has_attention).removesuffix(".weight")
        for component, name in layers
        if component == "unet"
    }
