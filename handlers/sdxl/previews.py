"""What a picture looks like while it is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from shared.models.previews import fit_map, preview

EVERY = 3
"""Steps from one preview to the next."""


def look_through(vae: Any) -> Callable[[Tensor], str]:
    """What makes a preview of the first of several pictures: pictures × 4 × height/8 × width/8 → a `data:` URL.

    Args:
        vae: An `AutoencoderKL`, whose latents are shown. It encodes one small picture, and decodes nothing.
    """

    def encode(picture: Tensor) -> Tensor:
        latents: Tensor = vae.encode(picture.to(vae.dtype)).latent_dist.mode()[0] * vae.config.scaling_factor
        return latents

    fitted = fit_map(encode, vae.device)
    return lambda latents: preview(latents[0], fitted)
