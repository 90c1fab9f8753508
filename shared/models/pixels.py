"""What a decoder made becomes pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import GenerationError

NOT_FINITE = "The model's output is not finite. Send the job again, with another seed or less guidance."
ONE_COLOUR = "The model's output is a single colour, which is what a failed decoding looks like. Send the job again, with another seed."


def is_one_colour(pixels: NDArray[np.uint8]) -> bool:
    """Whether all pixels of a picture are exactly the same: a sign that its decoding has failed.

    A network never draws one colour. Asked for black, or for a plain wall, it draws pixels that differ by a level or two, because its
    decoder works on latents that differ. This says nothing about what is in a picture; a nearly plain one is as good as any other.

    Args:
        pixels: Height × width × 3.
    """
    return bool((pixels == pixels[:1, :1]).all())


def check_latents(latents: Tensor) -> None:
    """Makes sure, before anything is decoded, that there is something to decode.

    Raises:
        GenerationError: There are values that are not finite.
    """
    if not bool(latents.isfinite().all()):
        raise GenerationError(NOT_FINITE)


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """Rounds to 8 bits where the tensor lies, so that a quarter of the bytes travel to the host.

    Args:
        images: N × 3 × height × width; black is 0 and white is 1, what is outside is clipped.

    Returns:
        N × height × width × 3, 0 … 255.

    Raises:
        GenerationError: There are values that are not finite; as pixels they would be black, and nobody would know.
    """
    if not bool(images.isfinite().all()):
        raise GenerationError(NOT_FINITE)
    pixels: NDArray[np.uint8] = (images.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels
