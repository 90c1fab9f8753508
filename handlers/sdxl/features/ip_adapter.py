"""References to resemble, in style, composition or character: IP-Adapters look at them, each in its own layers of the UNet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from handlers.sdxl.features.img2img import REFERENCE
from handlers.sdxl.nested import ReferenceType
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.ip_adapter_files import (
    Glance,
    IpAdapter,
    read_eye,
    read_ip_adapter,
    size_of_adapter,
    size_of_eye,
    with_ip_adapters,
)
from shared.errors import ModelUnavailable
from shared.weights.addons import Shelf

if TYPE_CHECKING:
    from handlers.sdxl.pipeline import Stage

Layers = Literal["all", "style", "layout"]
"""Where in the UNet an adapter acts. That single blocks carry style and layout was found by InstantStyle, arXiv 2404.02733, section 3.2."""

_EYE = "image_encoder"
_PLAIN, _PLUS, _FACE = "ip-adapter_sdxl_vit-h", "ip-adapter-plus_sdxl_vit-h", "ip-adapter-plus-face_sdxl_vit-h"

SERVING: Mapping[ReferenceType, Mapping[str, Layers]] = {
    "style": {"style": "all", _PLAIN: "style", _PLUS: "style"},
    "composition": {"composition": "all", "ip_plus_composition_sdxl": "all", _PLAIN: "layout", _PLUS: "layout"},
    "character": {"character": "all", _FACE: "all", _PLUS: "all"},
}
"""The files that can serve a type, the one that is taken first at the top, and the layers that it then acts in. The first of each is an
operator's own: whatever adapter is put there under the type's name serves that type."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One reference of a request, to be looked at.

    Attributes:
        picture: Its name among those that were fetched.
        fields: How the names of the fields about it begin.
        type: What the result is to share with it.
        strength: How strongly it acts, 0.0 … 1.0.
    """

    picture: str
    fields: str
    type: ReferenceType
    strength: float


def wanted(request: SdxlRequest) -> list[Wanted]:
    """The references of a request that are to be looked at, the main one first."""
    main = [Wanted(REFERENCE, "metadata.reference_", request.reference_type, request.reference_strength)]
    others = [
        Wanted(f"config.references[{index}].image", f"config.references[{index}].", other.type, other.strength)
        for index, other in enumerate(request.adapter_references)
    ]
    return (main if request.reference_method == "adapter" else []) + others


def accept(request: SdxlRequest, shelf: Shelf) -> None:
    """Refuses references of types that no adapter here serves.

    Raises:
        ModelUnavailable: It names the field and the files that would do.
    """
    for reference in wanted(request):
        serving(reference, shelf)


def serving(reference: Wanted, shelf: Shelf) -> tuple[str, Layers]:
    """The name of the adapter that serves a reference, and where it acts.

    Raises:
        ModelUnavailable: There is none, or no image encoder.
    """
    there, files = shelf.names("ip_adapters"), SERVING[reference.type]
    name = next((name for name in files if name in there), None)
    if name is not None and _EYE in shelf.names("image_encoder"):
        return name, files[name]
    lacking = f"one of {', '.join(f'{file}.safetensors' for file in files)}" if name is None else f"the folder {_EYE}"
    is_main = reference.picture == REFERENCE
    instead = "send reference_mode 'modify' or set SDXL_REFERENCE_METHOD=img2img for image→image, " if is_main else ""
    raise ModelUnavailable(
        f"{reference.fields}type: this worker has no adapter for {reference.type!r}: its folder ip_adapters lacks {lacking}. "
        f"Ask the operator to add it, {instead}or leave the reference out."
    )


def warnings(request: SdxlRequest) -> list[str]:
    """What the caller should know: which references were not looked at."""
    return [f"{each.fields}strength: at 0 the reference is not looked at" for each in wanted(request) if not each.strength]


@contextmanager
def attached(stage: Stage, request: SdxlRequest, references: Mapping[str, Image.Image], shelf: Shelf) -> Iterator[None]:
    """Has the UNet of the stage look at the request's references, while the body runs.

    Raises:
        ModelUnavailable: An adapter cannot be used. Nothing has been changed then.
    """
    asked = [(reference, *serving(reference, shelf)) for reference in wanted(request)]
    if asked:
        stage.notes["references"] = [
            {"type": reference.type, "strength": reference.strength, "adapter": name} for reference, name, _ in asked
        ]
    # At strength 0 it would change nothing, to the bit, and cost time.
    acting = [(reference, name, layers) for reference, name, layers in asked if reference.strength]
    if not acting:
        yield
        return
    unet = stage.pipeline.unet
    eye = shelf.load("image_encoder", _EYE, lambda folder: read_eye(folder, unet), size_of_eye)
    glances = [
        Glance(_load(name, stage.pipeline, shelf), references[reference.picture], _scale(reference.strength, layers, unet))
        for reference, name, layers in acting
    ]
    with with_ip_adapters(stage.pipeline, eye, glances, guided=_is_guided(request, unet)) as seen:
        stage.arguments["ip_adapter_image_embeds"] = seen
        yield


def _load(name: str, pipeline: Any, shelf: Shelf) -> IpAdapter:
    """The adapter, in memory since it was last used, if there was room for it."""
    return shelf.load("ip_adapters", name, lambda path: read_ip_adapter(path, pipeline), size_of_adapter)


def _scale(strength: float, layers: Layers, unet: Any) -> Callable[[str], float]:
    """How strongly an adapter acts, by the name of a layer's attention processor."""
    last = unet.config.layers_per_block - 1
    place = {"all": "", "style": "up_blocks.0.attentions.1.", "layout": f"down_blocks.2.attentions.{last}."}[layers]
    return lambda name: strength if name.startswith(place) else 0.0


def _is_guided(request: SdxlRequest, unet: Any) -> bool:
    """Whether the pipeline will guide: a model that takes guidance as a condition needs no second pass."""
    return request.guidance_scale > 1 and unet.config.time_cond_proj_dim is None
