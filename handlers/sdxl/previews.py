"""Latent previews: the first image of a batch, rendered without the VAE's decoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from shared.models.previews import LatentPreviewer

INTERVAL = 3
"""Steps between previews."""


class IntervalPreviewer:
    """Renders a preview at every third step.

    Args:
        vae: The `AutoencoderKL` that will decode them. It encodes one small image, to fit the map from latents to colours.
    """

    def __init__(self, vae: Any) -> None:
        def encode(image: Tensor) -> Tensor:
            latents: Tensor = vae.encode(image.to(vae.dtype)).latent_dist.mode()[0] * vae.config.scaling_factor
            return latents

        self._previewer = LatentPreviewer(encode, vae.device)
        self._step = 0

    def __call__(self, latents: Tensor) -> str | None:
        """Counts a step, and returns a preview of the first image as a `data:` URL, or None between previews.

        Args:
            latents: Images × 4 × height/8 × width/8.
        """
        self._step += 1
        return self._previewer.render(latents[0]) if self._step % INTERVAL == 0 else None
