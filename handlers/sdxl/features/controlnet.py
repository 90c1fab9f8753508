"""ControlNets: pictures that guide where things are, several at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from handlers.sdxl.features.canny import draw_edges
from handlers.sdxl.features.inpaint import sparing
from handlers.sdxl.nested import Control
from handlers.sdxl.request import Method, SdxlRequest
from shared.errors import ModelUnavailable, Problem, ValidationError
from shared.media.images import fit
from shared.models.device import size_of
from shared.models.load import load_network
from shared.settings import SettingsError
from shared.weights.addons import Shelf

if TYPE_CHECKING:
    from handlers.sdxl.pipeline import Stage

_PREPARE = {"canny": draw_edges}
"""What makes a guiding picture of any picture, for the kinds that need no network for it."""

_FORM = ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim", "addition_embed_type")
"""What a ControlNet has in common with the UNet that it was made for."""

_GUIDED: Mapping[Method, str] = {
    "img2img": "StableDiffusionXLControlNetImg2ImgPipeline",
    "inpaint": "StableDiffusionXLControlNetInpaintPipeline",
}
"""The pipelines that start from a picture."""


def accept(request: SdxlRequest, shelf: Shelf) -> None:
    """Refuses ControlNets that are not on the shelf, pictures that nobody here can prepare, and what ControlNets would ignore.

    Raises:
        ModelUnavailable: It names the field and what can be done.
        ValidationError: Guidance is to be rescaled, which diffusers does with ControlNets only while it paints over.
    """
    if request.controls and request.guidance_rescale and request.reference_method != "inpaint":
        allowed = "0 where config.controls guide the picture, unless config.mask is given, too"
        raise ValidationError([Problem("config.guidance_rescale", str(request.guidance_rescale), allowed)])
    for index, control in enumerate(request.controls):
        shelf.find("controlnets", control.kind)
        if not control.prepared and control.kind not in _PREPARE:
            raise ModelUnavailable(
                f"config.controls[{index}].image: this worker cannot make a guiding picture of kind {control.kind!r} of any picture; "
                f"it can for {', '.join(sorted(_PREPARE))}. Send the guiding picture itself, with prepared: true."
            )


@contextmanager
def attached(stage: Stage, request: SdxlRequest, references: Mapping[str, Image.Image], shelf: Shelf) -> Iterator[None]:
    """Has the request's ControlNets guide text → image or image → image."""
    if request.controls:
        stage.notes["controls"] = [{"kind": one.kind, "strength": one.strength, "until": one.until} for one in request.controls]
    # One that guides nothing, or never, is left out: diffusers refuses the second, and the first costs time.
    acting = [(index, control) for index, control in enumerate(request.controls) if control.strength and control.until]
    if acting:
        hints = [_hint(control, references[f"config.controls[{index}].image"], request) for index, control in acting]
        networks = [_load(control.kind, stage.pipeline, shelf) for _, control in acting]
        _guide(stage, [control for _, control in acting], networks, hints)
    yield


def _hint(control: Control, picture: Image.Image, request: SdxlRequest) -> Image.Image:
    fitted = fit(picture, request.width, request.height)
    return fitted if control.prepared else _PREPARE[control.kind](fitted)


def _load(kind: str, pipeline: Any, shelf: Shelf) -> Any:
    """The ControlNet, in memory since it was last used, if there was room for it."""
    unet = pipeline.unet

    def read(folder: Path) -> Any:
        from diffusers import ControlNetModel

        network = load_network(ControlNetModel, folder, name=f"controlnets/{kind}", device=unet.device, dtype=unet.dtype)
        if any(network.config[name] != unet.config[name] for name in _FORM):
            raise SettingsError(f"The ControlNet {kind!r} was made for another model.")
        return network

    return shelf.load("controlnets", kind, read, size_of)


def _guide(stage: Stage, controls: Sequence[Control], networks: Sequence[Any], hints: Sequence[Image.Image]) -> None:
    import diffusers

    kind = getattr(diffusers, _GUIDED.get(stage.method, "StableDiffusionXLControlNetPipeline"))
    kind = sparing(kind, stage.warn) if stage.method == "inpaint" else kind
    stage.pipeline = kind(**stage.pipeline.components, controlnet=list(networks), add_watermarker=False)
    stage.pipeline.set_progress_bar_config(disable=True)
    stage.arguments |= {
        "control_image" if stage.method in _GUIDED else "image": list(hints),
        "controlnet_conditioning_scale": [control.strength for control in controls],
        "control_guidance_end": [control.until for control in controls],
    }
