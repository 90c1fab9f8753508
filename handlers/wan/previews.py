"""What a clip looks like while it is made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from handlers.wan.decoding import encode_still
from shared.models.previews import LinearMap, fit_map, preview


class Looks:
    """Shows the frame in the middle of a clip that is not finished.

    Args:
        vae: An `AutoencoderKLWan`, whose latents are shown. Nothing is computed before somebody wants to look.
    """

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        self._fitted: LinearMap | None = None

    def of(self, leading: int) -> Callable[[Tensor], str]:
        """What makes a preview of latents, 1 × channels × latent frames × height/8 × width/8.

        Args:
            leading: Latent frames in front of the clip's own.
        """
        if self._fitted is None:
            self._fitted = fit_map(partial(encode_still, self._vae), self._vae.device)
        fitted = self._fitted
        return lambda latents: preview(latents[0, :, (leading + latents.shape[2]) // 2], fitted)
