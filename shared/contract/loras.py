"""LoRAs in requests for pictures and clips."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from shared.contract.fields import Name
from shared.contract.nested import NestedModel


class Lora(NestedModel):
    """One LoRA and how strongly it acts."""

    location: ClassVar[str] = "config.loras[]"

    name: Annotated[Name, Field(description="A name from the operator's folder or catalogue.")]
    scale: Annotated[float, Field(ge=-2.0, le=2.0, description="How strongly it acts.")] = 1.0
