"""Latent previews: the middle frame of an unfinished clip, rendered without the VAE's decoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from handlers.wan.decoding import encode_image
from shared.models.previews import LatentPreviewer


class MiddleFramePreviewer:
    """Renders the middle frame of a clip's latents.

    Args:
        vae: The `AutoencoderKLWan` that will decode them. It encodes one small image at the first preview.
    """

    def __init__(self, vae: Any) -> None:
        self._previewer = LatentPreviewer(partial(encode_image, vae), vae.device)

    def skipping(self, reference_frames: int) -> Callable[[Tensor], str]:
        """Returns a function that previews latents, 1 × channels × latent frames × height/8 × width/8, as a `data:` URL.

        Args:
            reference_frames: The latent frames of reference images in front of the clip's own.
        """
        return lambda latents: self._previewer.render(latents[0, :, (reference_frames + latents.shape[2]) // 2])
