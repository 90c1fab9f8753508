"""The payload of a completed SDXL job."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.contract.assets import ImageAsset, omitted_if_none
from shared.contract.callback import BaseCompleted, FailedPayload, ProcessingPayload, VisualMetadata


class SdxlMetadata(VisualMetadata):
    """Metadata of a completed SDXL job."""

    reference_method: Annotated[str | None, Field(description="`img2img`, `inpaint`, `adapter` or `copy`.")] = omitted_if_none


class SdxlCompleted(BaseCompleted):
    """A completed SDXL job."""

    assets: Annotated[tuple[ImageAsset, ...], Field(strict=False)]
    metadata: SdxlMetadata


SdxlPayload = Annotated[SdxlCompleted | FailedPayload | ProcessingPayload, Field(discriminator="status")]
