"""LoRAs in requests for images and videos."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from shared.contract.fields import Name
from shared.contract.nested import NestedModel


class Lora(NestedModel):
    """One LoRA and its scale."""

    location: ClassVar[str] = "config.loras[]"

    name: Annotated[Name, Field(description="A name from the operator's folder or catalogue.")]
    scale: Annotated[float, Field(ge=-2.0, le=2.0, description="The weight of the LoRA.")] = 1.0
