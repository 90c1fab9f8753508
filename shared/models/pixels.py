"""Converts decoder output to 8-bit pixels, and detects failed outputs."""

from __future__ import annotations

import numpy as np
import torch
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
    first = pixels[:1, :1]
    return bool((pixels[:1] == first).all()) and bool((pixels == first).all())  # the first row settles it for almost every image


def all_finite(values: Tensor) -> bool:
    """Returns whether no value is infinite or not a number.

    A finite sum proves it in a single pass. A sum may overflow where no value does; only then every value is looked at.
    """
    return bool(_sum_is_finite(values)) or bool(values.isfinite().all())


def check_latents(latents: Tensor) -> None:
    """Checks latents before they are decoded.

    Raises:
        GenerationError: A value is not finite.
    """
    if not all_finite(latents):
        raise GenerationError(NOT_FINITE)


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """Rounds images to 8 bits on the device, so that a quarter of the bytes is copied to the host, once and in its final layout.

    Args:
        images: N × 3 × height × width; black is 0 and white is 1, other values are clipped.

    Returns:
        N × height × width × 3, 0 … 255.

    Raises:
        GenerationError: A value is not finite; as a pixel it would silently be black.
    """
    levels = (images.float() * 255).round_().clamp_(0, 255).permute(0, 2, 3, 1)
    # The last byte tells whether the sum of all values is finite: the host waits for the device once, not for each answer.
    packed = torch.empty(levels.numel() + 1, dtype=torch.uint8, device=levels.device)
    packed[:-1].view(levels.shape).copy_(levels)  # converts and transposes in one pass
    packed[-1] = _sum_is_finite(images)
    array: NDArray[np.uint8] = packed.cpu().numpy()
    if not array[-1] and not bool(images.isfinite().all()):
        raise GenerationError(NOT_FINITE)
    return array[:-1].reshape(levels.shape)


def decoded_to_pixels(decoded: Tensor) -> NDArray[np.uint8]:
    """Converts the output of a VAE as `to_pixels` does.

    Args:
        decoded: N × 3 × height × width in -1 … 1. It is overwritten: a copy would double the memory of a large image.
    """
    return to_pixels(decoded.div_(2).add_(0.5))


def _sum_is_finite(values: Tensor) -> Tensor:
    return values.sum(dtype=torch.float32).isfinite()
