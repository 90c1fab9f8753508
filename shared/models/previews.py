"""Latent previews: a linear map from latent channels to RGB, without running the decoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from shared.media.encoding import preview_url
from shared.models.pixels import to_pixels

LatentToRgb = Tensor
"""(Channels + 1) × 3: the weight of each latent channel in red, green and blue, and a bias in the last row."""

_SIDE = 256  # pixels; a VAE that divides by eight makes 1024 latent pixels of it, for about 50 coefficients
_PATCHES = 8  # across and down
_SEED = 0
_RIDGE = 1e-3  # keeps the coefficients of channels without colour information near zero


class LatentPreviewer:
    """Renders previews of a VAE's latents.

    Args:
        encode: Encodes an image, 1 × 3 × height × width in -1 … 1, to latents, channels × height/n × width/n, scaled as for the denoiser.
        device: The VAE's device.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], device: torch.device) -> None:
        self._encode = encode
        self._device = device

    @cached_property
    def _latent_to_rgb(self) -> LatentToRgb:
        return fit_latent_to_rgb(self._encode, self._device)

    def render(self, latents: Tensor) -> str:
        """Renders one image or frame. The first call fits the map, which encodes one small image.

        Args:
            latents: Channels × height × width, scaled as for the denoiser.

        Returns:
            A data URL: WebP, one pixel per latent pixel, at most 128 on a side.

        Raises:
            GenerationError: The latents are not finite.
        """
        colours = (_with_bias(latents.float()) @ self._latent_to_rgb).T.reshape(1, 3, *latents.shape[-2:])
        return preview_url(to_pixels(colours)[0])


def fit_latent_to_rgb(encode: Callable[[Tensor], Tensor], device: torch.device) -> LatentToRgb:
    """Fits the map from a VAE's latents to colours, by ridge regression over one image of many colours.

    Latents are nearly linear in the mean colour of the pixels that they encode, so no table of published coefficients per model is needed.

    Args:
        encode: As for `LatentPreviewer`.
        device: The VAE's device.
    """
    image = _colour_patches().to(device)
    latents = encode(image).float()
    colours = functional.interpolate(image, latents.shape[-2:], mode="area")[0] / 2 + 0.5
    rows, wanted = _with_bias(latents), colours.flatten(1).T
    ridge = _RIDGE * len(rows) * torch.eye(rows.shape[1], device=device)
    ridge[-1, -1] = 0.0
    fitted: Tensor = torch.linalg.solve(rows.T @ rows + ridge, rows.T @ wanted)
    return fitted


def _with_bias(latents: Tensor) -> Tensor:
    """Channels × height × width → pixels × (channels + 1), with a last column of ones."""
    rows = latents.flatten(1).T
    return torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)


def _colour_patches() -> Tensor:
    """1 × 3 × 256 × 256 in -1 … 1: flat patches of random colours, 30% of them corners of the RGB cube."""
    generator, shape = torch.Generator().manual_seed(_SEED), (_PATCHES, _PATCHES)
    some, corners = torch.rand(1, 3, *shape, generator=generator), torch.randint(0, 2, (1, 3, *shape), generator=generator).float()
    patches = torch.where(torch.rand(1, 1, *shape, generator=generator) < 0.3, corners, some)
    return functional.interpolate(patches, (_SIDE, _SIDE), mode="nearest") * 2 - 1
