"""LoRAs for SDXL: which layers of its networks they add to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from PIL import Image

from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.original_names import unet_name
from shared.models.lora_files import Target, layers_of
from shared.models.loras import with_loras
from shared.weights.addons import Shelf

if TYPE_CHECKING:
    from handlers.sdxl.pipeline import Stage

_COMPONENTS = ("unet", "text_encoder", "text_encoder_2")

# Kohya's scripts and their kin, then diffusers and peft, which write the component's name.
_BEGINNINGS = {"lora_unet_": "unet", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2", "lora_te_": "text_encoder"} | {
    f"{component}.": component for component in _COMPONENTS
}


def accept(request: SdxlRequest, shelf: Shelf) -> None:
    """Refuses a request whose LoRAs are not on the shelf.

    Raises:
        ModelUnavailable: It names the field and what there is.
    """
    for lora in request.loras:
        shelf.find("loras", lora.name)


@contextmanager
def attached(stage: Stage, request: SdxlRequest, references: Mapping[str, Image.Image], shelf: Shelf) -> Iterator[None]:
    """Merges the request's LoRAs into the networks of the stage, while the body runs. Of one that is named twice the scales add up.

    Raises:
        ModelUnavailable: One cannot be used. Nothing has been changed then.
    """
    if not request.loras:
        yield
        return
    with with_loras(target(stage.pipeline), request.loras, shelf) as scales:
        stage.notes["loras"] = [{"name": name, "scale": scale} for name, scale in scales.items()]
        yield


def target(pipeline: Any) -> Target:
    """The layers of a pipeline's UNet and text encoders, and what trainers call them.

    Args:
        pipeline: Any SDXL pipeline.
    """
    networks = {component: getattr(pipeline, component) for component in _COMPONENTS}
    layers = {layer: [module] for component, network in networks.items() for layer, module in layers_of(component, network).items()}
    config = pipeline.unet.config
    attending = tuple("CrossAttn" in kind for kind in config.up_block_types)
    originals = {
        (component, name): unet_name(f"{name}.weight", config.layers_per_block, attending).removesuffix(".weight")
        for component, name in layers
        if component == "unet"
    }
    return Target("SDXL", layers, _BEGINNINGS, originals)
