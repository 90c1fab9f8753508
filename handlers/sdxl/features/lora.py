"""LoRAs on SDXL's UNet and text encoders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from handlers.sdxl.job_pipeline import JobPipeline
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.original_names import unet_name
from shared.models.lora_files import LoraTarget, lora_layers
from shared.models.loras import with_loras
from shared.weights.addons import AddonLibrary

_COMPONENTS = ("unet", "text_encoder", "text_encoder_2")

# The prefixes of kohya's scripts and their derivatives, then of diffusers and peft, which use the component's name.
_PREFIXES = {"lora_unet_": "unet", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2", "lora_te_": "text_encoder"} | {
    f"{component}.": component for component in _COMPONENTS
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
    with with_loras(lora_target(job.pipeline), request.loras, job.addons) as scales:
        job.metadata["loras"] = [{"name": name, "scale": scale} for name, scale in scales.items()]
        yield


def lora_target(pipeline: Any) -> LoraTarget:
    """Returns the layers of a pipeline's UNet and text encoders, with the names that trainers use for them.

    Args:
        pipeline: Any SDXL pipeline.
    """
    networks = {component: getattr(pipeline, component) for component in _COMPONENTS}
    layers = {layer: [module] for component, network in networks.items() for layer, module in lora_layers(component, network).items()}
    config = pipeline.unet.config
    has_attention = tuple("CrossAttn" in kind for kind in config.up_block_types)
    originals = {
        (component, name): unet_name(f"{name}.weight", config.layers_per_block, has_attention).removesuffix(".weight")
        for component, name in layers
        if component == "unet"
    }
    return LoraTarget("SDXL", layers, _PREFIXES, originals)
