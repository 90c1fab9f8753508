"""Nested objects of an SDXL request: ControlNets, refiner, upscaling, references, enhancement."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from shared.contract.fields import ExactInt, Name
from shared.contract.nested import NestedModel
from shared.contract.references import Reference

ReferenceType = Literal["style", "composition", "character"]
"""The property of a reference that an IP-Adapter transfers."""

Method = Literal["none", "copy", "img2img", "inpaint", "adapter"]
"""How the main reference is used: not at all, copied, as the start of img2img, inpainted, or as the prompt of an IP-Adapter."""

_ReferenceModeValue = Literal["modify", "copy", "none", "single", "start", "end", "both"]


def _ignore_wan_modes(mode: object) -> object:
    # Callers send WAN's modes in the same field to both handlers.
    return None if isinstance(mode, str) and mode in ("none", "single", "start", "end", "both") else mode


ReferenceMode = Annotated[
    Literal["modify", "copy"] | None, BeforeValidator(_ignore_wan_modes, json_schema_input_type=_ReferenceModeValue | None)
]
"""How the caller wants the reference used; None when the caller did not say."""


MAX_CONTROLS = 16
"""The most ControlNets in one request."""


class Control(NestedModel):
    """A ControlNet and its control image."""

    location: ClassVar[str] = "config.controls[]"

    kind: Annotated[Name, Field(description="The ControlNet's name in the operator's catalogue: `canny`, `depth`, `pose` …")]
    image: Annotated[Reference, Field(description="The control image, or the image to derive it from.")]
    strength: Annotated[float, Field(ge=0.0, le=2.0, description="The conditioning scale.")] = 1.0
    until: Annotated[float, Field(ge=0.0, le=1.0, description="The fraction of the steps that are conditioned.")] = 1.0
    prepared: Annotated[bool, Field(description="Whether `image` is already a control image: edges, a depth map, a pose.")] = False


class Refiner(NestedModel):
    """The refiner and the point where it takes over."""

    location: ClassVar[str] = "config.refiner"

    switch_at: Annotated[float, Field(ge=0.0, le=1.0, description="The fraction of the noise schedule after which the refiner takes over.")]
    steps: Annotated[int | None, Field(ge=1, le=50, description="Steps of the refiner's whole schedule; the job's by default.")] = None


class Upscale(NestedModel):
    """Upscaling of the generated image."""

    location: ClassVar[str] = "config.upscale"

    factor: Annotated[Literal[2, 4], ExactInt, Field(description="The factor by which width and height grow.")]
    model: Annotated[Name | None, Field(description="An upscaler from the operator's catalogue.")] = None


class ReferenceImage(NestedModel):
    """An image whose style, composition or character the result shares."""

    location: ClassVar[str] = "config.references[]"

    image: Annotated[Reference, Field(description="The image.")]
    type: Annotated[ReferenceType, Field(description="The property that the result shares with it.")] = "style"
    strength: Annotated[float, Field(ge=0.0, le=1.0, description="The IP-Adapter's scale; 0 skips the reference.")] = 0.5


class Enhance(NestedModel):
    """Sharpening and contrast of the generated image."""

    location: ClassVar[str] = "config.enhance"

    sharpen: Annotated[float, Field(ge=0.0, le=1.0, description="The strength of sharpening.")] = 0.0
    contrast: Annotated[float, Field(ge=0.0, le=1.0, description="The increase of the distance of each value from the mean grey.")] = 0.0
    restore_faces: Annotated[bool, Field(description="Refused: restoring faces needs a detector to align them.")] = False
