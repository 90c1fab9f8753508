"""What a decoder made becomes pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import GenerationError


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
        raise GenerationError("The model's output is not finite. Send the job again, with another seed or less guidance.")
    pixels: NDArray[np.uint8] = (images.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels
