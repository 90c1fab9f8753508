"""IP-Adapters: references whose style, composition or character the result shares, each through its own layers of the UNet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from handlers.sdxl.features.img2img import REFERENCE_FIELD
from handlers.sdxl.job_pipeline import JobPipeline
from handlers.sdxl.nested import ReferenceType
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.ip_adapter_files import (
    ImagePrompt,
    IpAdapter,
    read_image_encoder,
    read_ip_adapter,
    size_of_adapter,
    size_of_image_encoder,
    with_ip_adapters,
)
from shared.errors import ModelUnavailable
from shared.weights.addons import AddonLibrary

Layers = Literal["all", "style", "layout"]
"""The UNet layers where an adapter acts. InstantStyle (arXiv 2404.02733, section 3.2) found single blocks to carry style and layout."""

_IMAGE_ENCODER = "image_encoder"
_PLAIN, _PLUS, _FACE = "ip-adapter_sdxl_vit-h", "ip-adapter-plus_sdxl_vit-h", "ip-adapter-plus-face_sdxl_vit-h"

ADAPTERS_BY_TYPE: Mapping[ReferenceType, Mapping[str, Layers]] = {
    "style": {"style": "all", _PLAIN: "style", _PLUS: "style"},
    "composition": {"composition": "all", "ip_plus_composition_sdxl": "all", _PLAIN: "layout", _PLUS: "layout"},
    "character": {"character": "all", _FACE: "all", _PLUS: "all"},
}
"""The adapter files that serve a reference type, in order of preference, and the layers where they act. The first of each is the
operator's own: any adapter stored under the type's name serves that type."""


@dataclass(frozen=True, slots=True)
class AdapterReference:
    """One reference of a request that an IP-Adapter processes.

    Attributes:
        image: Its key among the downloaded images.
        fields: The prefix of its fields' names.
        type: The property to transfer.
        strength: The adapter's scale, 0.0 … 1.0.
    """

    image: str
    fields: str
    type: ReferenceType
    strength: float


def adapter_references(request: SdxlRequest) -> list[AdapterReference]:
    """Returns the references that IP-Adapters process, the main one first."""
    main = [AdapterReference(REFERENCE_FIELD, "metadata.reference_", request.reference_type, request.reference_strength)]
    others = [
        AdapterReference(f"config.references[{index}].image", f"config.references[{index}].", other.type, other.strength)
        for index, other in enumerate(request.adapter_references)
    ]
    return (main if request.reference_method == "adapter" else []) + others


def check(request: SdxlRequest, addons: AddonLibrary) -> None:
    """Refuses references of a type that no installed adapter serves.

    Raises:
        ModelUnavailable: Names the field and the files that would serve it.
    """
    for reference in adapter_references(request):
        find_adapter(reference, addons)


def find_adapter(reference: AdapterReference, addons: AddonLibrary) -> tuple[str, Layers]:
    """Returns the name of the adapter that serves a reference, and the layers where it acts.

    Raises:
        ModelUnavailable: No adapter serves its type, or the image encoder is missing.
    """
    installed, files = addons.names("ip_adapters"), ADAPTERS_BY_TYPE[reference.type]
    name = next((name for name in files if name in installed), None)
    if name is not None and _IMAGE_ENCODER in addons.names("image_encoder"):
        return name, files[name]
    missing = f"one of {', '.join(f'{file}.safetensors' for file in files)}" if name is None else f"the folder {_IMAGE_ENCODER}"
    is_main = reference.image == REFERENCE_FIELD
    alternative = " Or send `reference_mode: modify`, or set SDXL_REFERENCE_METHOD=img2img, for img2img." if is_main else ""
    raise ModelUnavailable(
        f"`{reference.fields}type`: no IP-Adapter for {reference.type!r} is installed; ip_adapters/ lacks {missing}. "
        f"Ask the operator to add it, or omit the reference.{alternative}"
    )


def warnings(request: SdxlRequest) -> list[str]:
    """Returns a warning for each reference with strength 0."""
    return [f"{each.fields}strength: at 0 the reference has no effect" for each in adapter_references(request) if not each.strength]


@contextmanager
def apply(job: JobPipeline, request: SdxlRequest) -> Iterator[None]:
    """Adds the adapters to the pipeline's UNet while the body runs.

    Raises:
        ModelUnavailable: An adapter is unusable. The UNet is unchanged.
    """
    found = [(reference, *find_adapter(reference, job.addons)) for reference in adapter_references(request)]
    job.metadata["references"] = [{"type": reference.type, "strength": reference.strength, "adapter": name} for reference, name, _ in found]
    # A strength of 0 has no effect, to the bit, and would only cost time.
    active = [(reference, name, layers) for reference, name, layers in found if reference.strength]
    if not active:
        yield
        return
    unet = job.pipeline.unet
    encoder = job.addons.load("image_encoder", _IMAGE_ENCODER, lambda folder: read_image_encoder(folder, unet), size_of_image_encoder)
    prompts = [
        ImagePrompt(_load(name, job), job.references[reference.image], _layer_scale(reference.strength, layers, unet))
        for reference, name, layers in active
    ]
    with with_ip_adapters(job.pipeline, encoder, prompts, guided=_is_guided(request, unet)) as embeddings:
        job.arguments["ip_adapter_image_embeds"] = embeddings
        yield


def _load(name: str, job: JobPipeline) -> IpAdapter:
    """Loads an adapter, from the cache if possible."""
    return job.addons.load("ip_adapters", name, lambda path: read_ip_adapter(path, job.pipeline), size_of_adapter)


def _layer_scale(strength: float, layers: Layers, unet: Any) -> Callable[[str], float]:
    """Returns a function from the name of an attention processor to the adapter's scale there."""
    last = unet.config.layers_per_block - 1
    prefix = {"all": "", "style": "up_blocks.0.attentions.1.", "layout": f"down_blocks.2.attentions.{last}."}[layers]
    return lambda name: strength if name.startswith(prefix) else 0.0


def _is_guided(request: SdxlRequest, unet: Any) -> bool:
    """Whether the pipeline runs an unconditional pass: guidance-distilled UNets take the scale as an embedding instead."""
    return request.guidance_scale > 1 and unet.config.time_cond_proj_dim is None
