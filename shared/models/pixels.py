"""Converts decoder output to 8-bit pixels, and detects failed outputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import GenerationError

NOT_FINITE = "The model's output is not finite. Send the job again, with another seed or less guidance."
SINGLE_COLOUR = "The model's output is a single colour, which indicates a failed decoding. Send the job again, with another seed."


def is_single_colour(pixels: NDArray[np.uint8]) -> bool:
    """Returns whether all pixels of an image are exactly equal, which indicates a failed decoding.

    A network never draws a single colour: prompted for black or for a plain wall, it draws pixels that differ by a level or two, because
    the latents differ. A nearly uniform image is not a failure.

    Args:
        pixels: Height × width × 3.
    """
    return bool((pixels == pixels[:1, :1]).all())


def check_latents(latents: Tensor) -> None:
    """Checks latents before they are decoded.

    Raises:
        GenerationError: A value is not finite.
    """
    if not bool(latents.isfinite().all()):
        raise GenerationError(NOT_FINITE)


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """Rounds images to 8 bits on the device, so that a quarter of the bytes is copied to the host.

    Args:
        images: N × 3 × height × width; black is 0 and white is 1, other values are clipped.

    Returns:
        N × height × width × 3, 0 … 255.

    Raises:
        GenerationError: A value is not finite; as a pixel it would silently be black.
    """
    if not bool(images.isfinite().all()):
        raise GenerationError(NOT_FINITE)
    pixels: NDArray[np.uint8] = (images.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels
