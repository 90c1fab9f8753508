"""What is done with a finished picture: enlarged, enhanced, looked at. Nothing of it unless somebody asks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import JsonValue

from handlers.sdxl.postprocess import safety
from handlers.sdxl.postprocess import upscale as upscaling
from handlers.sdxl.postprocess.enhance import enhance
from handlers.sdxl.request import SdxlRequest
from shared.errors import ModelUnavailable
from shared.jobs.recipe import Run
from shared.media.images import Pixels
from shared.weights.addons import Shelf


@dataclass(frozen=True)
class Finishing:
    """What a worker can do with finished pictures.

    Attributes:
        shelf: What the operator put beside the model.
        device: Where to work.
        dtype: In which precision.
        always_checks: Whether the operator has every picture looked at.
    """

    shelf: Shelf
    device: torch.device
    dtype: torch.dtype
    always_checks: bool = False

    def accept(self, request: SdxlRequest) -> None:
        """Refuses, before any work, what is not on this worker.

        Raises:
            ModelUnavailable: It names the field and what there is.
        """
        upscaling.accept(request, self.shelf)
        if self._checks(request):
            self.shelf.find("safety_checker", safety.NAME)
        if request.enhance is not None and request.enhance.restore_faces:
            raise ModelUnavailable("config.enhance.restore_faces: this worker has no network that restores faces. Leave it out.")

    def finish(self, pixels: Pixels, request: SdxlRequest, run: Run) -> tuple[Pixels, dict[str, JsonValue]]:
        """Does with one picture what was asked.

        Args:
            pixels: Height × width × 3.
            request: What was asked.
            run: Its token is looked at between parts of the work, and it is told what had to be done.

        Returns:
            The picture, and what is to be said about it.
        """
        notes: dict[str, JsonValue] = {}
        if request.upscale is not None:
            pixels, model = upscaling.upscale(pixels, request.upscale, self.shelf, self.device, self.dtype, run)
            notes["upscale"] = {"factor": request.upscale.factor, "model": model}
        if request.enhance is not None:
            pixels = enhance(pixels, request.enhance)
            notes["enhance"] = {"sharpen": request.enhance.sharpen, "contrast": request.enhance.contrast}
        if self._checks(request):
            run.cancel.check()
            notes["nsfw_flagged"] = safety.is_flagged(pixels, self.shelf, self.device, self.dtype)
        return pixels, notes

    def _checks(self, request: SdxlRequest) -> bool:
        return request.safety_check or self.always_checks
