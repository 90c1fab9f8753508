"""Latent previews: the first image of a batch, rendered without the VAE's decoder."""

from __future__ import annotations

from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, proxy

from torch import Tensor

from shared.models.previews import LatentPreviewer

INTERVAL = 3
"""Steps between previews."""


class IntervalPreviewer:
    """Renders a preview at every third step.

    Args:
        previewer: Of the VAE that will decode the latents.
    """

    def __init__(self, previewer: LatentPreviewer) -> None:
        self._previewer = previewer
        self._step = 0

    def __call__(self, latents: Tensor) -> str | None:
        """Counts a step, and returns a preview of the first image as a `data:` URL, or None between previews.

        Args:
            latents: Images × 4 × height/8 × width/8.
        """
        self._step += 1
        return self._previewer.render(latents[0]) if self._step % INTERVAL == 0 else None


class PreviewerCache:
    """The previewer of each VAE, kept as long as the VAE: its first preview encodes an image, to fit the map from latents to colours."""

    def __init__(self) -> None:
        self._previewers: WeakKeyDictionary[Any, LatentPreviewer] = WeakKeyDictionary()

    def get(self, vae: Any) -> LatentPreviewer:
        """Returns the previewer of an `AutoencoderKL`."""
        if vae not in self._previewers:
            # A proxy, so that the previewer does not keep its own key alive.
            self._previewers[vae] = LatentPreviewer(partial(_encode, proxy(vae)), vae.device)
        return self._previewers[vae]


def _encode(vae: Any, image: Tensor) -> Tensor:
    latents: Tensor = vae.encode(image.to(vae.dtype)).latent_dist.mode()[0] * vae.config.scaling_factor
    return latents
