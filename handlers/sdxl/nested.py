"""Objects inside an SDXL request."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from shared.contract.fields import Name, Whole
from shared.contract.nested import Part
from shared.contract.references import Reference

ReferenceType = Literal["style", "composition", "character"]
"""What a picture may share with a reference."""

_ReferenceWord = Literal["modify", "copy", "none", "single", "start", "end", "both"]


def _ignore_clip_words(word: object) -> object:
    # Callers send WAN's words in the same place for both handlers.
    return None if isinstance(word, str) and word in ("none", "single", "start", "end", "both") else word


ReferenceMode = Annotated[
    Literal["modify", "copy"] | None, BeforeValidator(_ignore_clip_words, json_schema_input_type=_ReferenceWord | None)
]
"""What is to become of a reference, where a caller chooses."""


MOST_CONTROLS = 16
"""ControlNets that a request may have."""


class Control(Part):
    """One ControlNet and the picture that guides it."""

    stands_at: ClassVar[str] = "config.controls[]"

    kind: Annotated[Name, Field(description="`canny`, `depth`, `pose` … from the operator's catalogue.")]
    image: Annotated[Reference, Field(description="The guiding picture.")]
    strength: Annotated[float, Field(ge=0.0, le=2.0, description="How strongly it guides.")] = 1.0
    until: Annotated[float, Field(ge=0.0, le=1.0, description="The share of the steps that it guides.")] = 1.0
    prepared: Annotated[bool, Field(description="The picture is the guiding picture itself: edges, a depth map, a pose.")] = False


class Refiner(Part):
    """The refiner and when it takes over."""

    stands_at: ClassVar[str] = "config.refiner"

    switch_at: Annotated[float, Field(ge=0.0, le=1.0, description="The share of the steps after which the refiner takes over.")]
    steps: Annotated[int | None, Field(ge=1, le=50, description="Steps of the whole schedule, if other than the job's.")] = None


class Upscale(Part):
    """An enlargement of the finished picture."""

    stands_at: ClassVar[str] = "config.upscale"

    factor: Annotated[Literal[2, 4], Whole, Field(description="How many times wider and higher.")]
    model: Annotated[Name | None, Field(description="An upscaler from the operator's catalogue.")] = None


class AdapterReference(Part):
    """A picture to resemble, in one way."""

    stands_at: ClassVar[str] = "config.references[]"

    image: Annotated[Reference, Field(description="The picture.")]
    type: Annotated[ReferenceType, Field(description="What the result shares with it.")] = "style"
    strength: Annotated[float, Field(ge=0.0, le=1.0, description="How strongly it acts; at 0 it is not looked at.")] = 0.5


class Enhance(Part):
    """Plain changes to the finished picture."""

    stands_at: ClassVar[str] = "config.enhance"

    sharpen: Annotated[float, Field(ge=0.0, le=1.0, description="How much of the difference from a smoothed picture is added.")] = 0.0
    contrast: Annotated[float, Field(ge=0.0, le=1.0, description="How much farther each value is moved from the mean grey.")] = 0.0
    restore_faces: Annotated[bool, Field(description="Refused: no worker has a network for it yet.")] = False
