"""Post-processing of generated images: upscaling, enhancement, safety check."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import JsonValue

from handlers.sdxl.postprocess import enhance, safety, upscale
from handlers.sdxl.request import SdxlRequest
from shared.errors import ModelUnavailable
from shared.jobs.recipe import JobRun
from shared.media.images import Pixels
from shared.weights.addons import AddonLibrary


@dataclass(frozen=True)
class PostProcessor:
    """Applies the post-processing that a request asks for.

    Attributes:
        addons: The operator's additional networks.
        device: Where they run.
        dtype: Their precision.
        always_checks_safety: Whether the operator has every image classified.
    """

    addons: AddonLibrary
    device: torch.device
    dtype: torch.dtype
    always_checks_safety: bool = False

    def check(self, request: SdxlRequest) -> None:
        """Refuses, before any work, what is not installed.

        Raises:
            ModelUnavailable: Names the field and the alternatives.
        """
        if request.upscale is not None:
            upscale.choose_upscaler(request.upscale, self.addons)
        if self._checks_safety(request):
            self.addons.find("safety_checker", safety.NAME)
        if request.enhance is not None and request.enhance.restore_faces:
            raise ModelUnavailable("`config.enhance.restore_faces`: this worker has no face detector to find and align faces. Omit it.")

    def process(self, pixels: Pixels, request: SdxlRequest, run: JobRun) -> tuple[Pixels, dict[str, JsonValue]]:
        """Post-processes one image.

        Args:
            pixels: Height × width × 3.
            request: The job.
            run: Checked for cancellation between operations; receives warnings.

        Returns:
            The image, and metadata about what was done.
        """
        metadata: dict[str, JsonValue] = {}
        if request.upscale is not None:
            pixels, model = upscale.upscale(pixels, request.upscale, self.addons, self.device, self.dtype, run)
            metadata["upscale"] = {"factor": request.upscale.factor, "model": model}
        if request.enhance is not None:
            pixels = enhance.enhance(pixels, request.enhance)
            metadata["enhance"] = {"sharpen": request.enhance.sharpen, "contrast": request.enhance.contrast}
        if self._checks_safety(request):
            run.cancel.check()
            metadata["nsfw_flagged"] = safety.is_nsfw(pixels, self.addons, self.device, self.dtype)
        return pixels, metadata

    def _checks_safety(self, request: SdxlRequest) -> bool:
        return request.safety_check or self.always_checks_safety
