"""Inpainting: what a mask covers of the reference is painted over, and the rest stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from handlers.sdxl.features.img2img import REFERENCE, describe, effective_strength, encode
from handlers.sdxl.request import SdxlRequest
from shared.errors import Problem, ValidationError
from shared.media.images import Pixels, fit
from shared.weights.addons import Shelf

if TYPE_CHECKING:
    from handlers.sdxl.pipeline import Stage

MASK = "config.mask"
"""The name of the mask among the references that were fetched."""


def accept(request: SdxlRequest, shelf: Shelf) -> None:
    """Refuses a refiner beside a mask: it would be given noise where the mask is white, and a finished picture where it is black.

    Raises:
        ValidationError: Both are there.
    """
    if request.mask is not None and request.refiner is not None:
        raise ValidationError([Problem("config.refiner", "both", "left out where config.mask says what is painted over")])


@contextmanager
def attached(stage: Stage, request: SdxlRequest, references: Mapping[str, Image.Image], shelf: Shelf) -> Iterator[None]:
    """Has the pipeline paint over what the mask covers, and lays the reference over the rest of what it made."""
    if stage.method == "inpaint":
        from diffusers import StableDiffusionXLInpaintPipeline

        picture, mask = (fit(references[name], request.width, request.height) for name in (REFERENCE, MASK))
        mask = mask.convert("L")
        stage.pipeline = sparing(StableDiffusionXLInpaintPipeline, stage.warn)(**stage.pipeline.components, add_watermarker=False)
        stage.pipeline.set_progress_bar_config(disable=True)
        stage.arguments |= {"image": picture, "mask_image": mask, "strength": effective_strength(request)}
        stage.notes |= describe(request)
        stage.afterwards.append(lambda pixels: laid_over(pixels, picture, mask))
    yield


def sparing(kind: Any, warn: Callable[[str], None]) -> Any:
    """A pipeline for inpainting that spares the VAE.

    The library's own would cast it to half precision, in which most of SDXL's overflow, and of a batch it would start all pictures from
    what the first one's noise made of the reference.

    Args:
        kind: One of the pipelines for inpainting.
        warn: Is told what had to be done to encode the reference.
    """

    def encode_once(pipeline: Any, image: Tensor, generator: list[torch.Generator]) -> Tensor:
        return encode(pipeline, image, generator, warn)

    return type(kind.__name__, (kind,), {"_encode_vae_image": encode_once})


def laid_over(pixels: Pixels, picture: Image.Image, mask: Image.Image) -> Pixels:
    """What was painted, where the mask is white, and the reference to the bit where it is black; between them a blend.

    Args:
        pixels: Height × width × 3, as painted.
        picture: The reference, of the same size, RGB.
        mask: Of the same size, grey.
    """
    return np.asarray(Image.composite(Image.fromarray(pixels), picture, mask))
