"""The payload of a completed WAN job."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.contract.assets import ImageAsset, VideoAsset, omitted_if_none
from shared.contract.callback import BaseCompleted, FailedPayload, ProcessingPayload, VisualMetadata


class WanMetadata(VisualMetadata):
    """Metadata of a completed WAN job."""

    frame_num: Annotated[int | None, Field(description="Frames of the clip.")] = omitted_if_none
    fps: Annotated[int | None, Field(description="Frames per second of the clip.")] = omitted_if_none
    duration_seconds: Annotated[float | None, Field(description="Frames / fps of the clip.")] = omitted_if_none
    auto_enhancement: Annotated[bool, Field(description="Always `false`: handlers do not rewrite prompts.")]


class WanCompleted(BaseCompleted):
    """A completed WAN job."""

    assets: Annotated[tuple[Annotated[ImageAsset | VideoAsset, Field(discriminator="type")], ...], Field(strict=False)]
    metadata: WanMetadata


WanPayload = Annotated[WanCompleted | FailedPayload | ProcessingPayload, Field(discriminator="status")]
