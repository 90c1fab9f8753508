"""ControlNets: control images that condition the composition, several at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from handlers.sdxl.features.canny import canny_edges
from handlers.sdxl.features.img2img import REFERENCE_FIELD
from handlers.sdxl.features.inpaint import with_safe_vae_encode
from handlers.sdxl.job_pipeline import JobPipeline
from handlers.sdxl.nested import Control, Method
from handlers.sdxl.request import SdxlRequest
from shared.errors import Conflict, ModelUnavailable, ValidationError
from shared.media.images import fit, fit_with
from shared.models.device import memory_footprint
from shared.models.load import load_network
from shared.weights.addons import AddonLibrary
from shared.weights.errors import WeightsError

_PREPROCESSORS = {"canny": canny_edges}
"""Functions that derive a control image from an ordinary one, for the kinds that need no network for it."""

_ARCHITECTURE = ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim", "addition_embed_type")
"""The configuration values that a ControlNet shares with its base UNet."""

_PIPELINES: Mapping[Method, str] = {
    "img2img": "StableDiffusionXLControlNetImg2ImgPipeline",
    "inpaint": "StableDiffusionXLControlNetInpaintPipeline",
}
"""The pipelines that start from an image."""


def check(request: SdxlRequest, addons: AddonLibrary) -> None:
    """Refuses ControlNets that are not installed, images without a preprocessor, and settings that ControlNet pipelines ignore.

    Raises:
        ModelUnavailable: Names the field and the alternatives.
        ValidationError: Guidance rescale is set: of diffusers' ControlNet pipelines only the inpainting one implements it.
    """
    if request.guidance_rescale and request.reference_method != "inpaint":
        raise ValidationError([Conflict.between("config.guidance_rescale", "config.controls")])
    for index, control in enumerate(request.controls):
        addons.find("controlnets", control.kind)
        if not control.prepared and control.kind not in _PREPROCESSORS:
            raise ModelUnavailable(
                f"`config.controls[{index}].image` must be a control image, with `prepared: true`. "
                f"There is no preprocessor for {control.kind!r}; available: {', '.join(sorted(_PREPROCESSORS))}."
            )


@contextmanager
def apply(job: JobPipeline, request: SdxlRequest) -> Iterator[None]:
    """Replaces the pipeline by its ControlNet counterpart."""
    job.metadata["controls"] = [{"kind": each.kind, "strength": each.strength, "until": each.until} for each in request.controls]
    # Controls without effect are skipped: diffusers rejects an end of 0, and a strength of 0 would only cost time.
    active = [(index, control) for index, control in enumerate(request.controls) if control.strength and control.until]
    if active:
        images = [_control_image(control, _fitted(job, f"config.controls[{index}].image", request)) for index, control in active]
        networks = [_load(control.kind, job) for _, control in active]
        _use_controlnets(job, request.reference_method, [control for _, control in active], networks, images)
    yield


def _fitted(job: JobPipeline, field: str, request: SdxlRequest) -> Image.Image:
    """Returns a control image, cropped together with the picture that generation starts from, if there is one."""
    image, size = job.references[field], (request.width, request.height)
    return fit_with(image, job.references[REFERENCE_FIELD], *size) if request.reference_method in _PIPELINES else fit(image, *size)


def _control_image(control: Control, fitted: Image.Image) -> Image.Image:
    return fitted if control.prepared else _PREPROCESSORS[control.kind](fitted)


def _load(kind: str, job: JobPipeline) -> Any:
    """Loads a ControlNet, from the cache if possible."""
    unet = job.pipeline.unet

    def read(folder: Path) -> Any:
        from diffusers import ControlNetModel

        network = load_network(ControlNetModel, folder, name=f"controlnets/{kind}", device=unet.device, dtype=unet.dtype)
        if any(network.config[name] != unet.config[name] for name in _ARCHITECTURE):
            raise WeightsError(f"controlnets/{kind}", "it was made for another model")
        return network

    return job.addons.load("controlnets", kind, read, memory_footprint)


def _use_controlnets(
    job: JobPipeline, method: Method, controls: Sequence[Control], networks: Sequence[Any], images: Sequence[Image.Image]
) -> None:
    import diffusers

    kind = getattr(diffusers, _PIPELINES.get(method, "StableDiffusionXLControlNetPipeline"))
    kind = with_safe_vae_encode(kind, job.warn) if method == "inpaint" else kind
    job.pipeline = kind(**job.pipeline.components, controlnet=list(networks), add_watermarker=False)
    job.pipeline.set_progress_bar_config(disable=True)
    job.arguments |= {
        "control_image" if method in _PIPELINES else "image": list(images),
        "controlnet_conditioning_scale": [control.strength for control in controls],
        "control_guidance_end": [control.until for control in controls],
    }
