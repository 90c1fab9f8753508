"""Latents as a small picture, while they are still being made: a linear map of their channels, and no decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from shared.media.images import preview_url
from shared.models.pixels import to_pixels

LinearMap = Tensor
"""(Channels + 1) × 3: what each channel of the latents adds to red, green and blue, and in the last row what is always there."""

_SIDE = 256  # of the picture that a map is fitted to: with VAEs that divide by eight, 1024 pixels of latents for some 50 numbers
_PATCHES = 8  # across and down
_SEED = 0
_SHRINKAGE = 1e-3  # keeps the numbers of channels that say nothing about colours near zero


def fit_map(encode: Callable[[Tensor], Tensor], device: torch.device) -> LinearMap:
    """Finds the linear map that turns a VAE's latents into colours best, by least squares over a picture of many colours.

    A VAE's latents are nearly linear in the mean colour of the pixels that each stands for, so that no table of numbers is needed for each
    model: one small picture is encoded, once.

    Args:
        encode: 1 × 3 × height × width in -1 … 1 → channels × height/n × width/n, scaled as the denoiser has latents.
        device: Where to work.
    """
    picture = _colours().to(device)
    latents = encode(picture).float()
    colours = functional.interpolate(picture, latents.shape[-2:], mode="area")[0] / 2 + 0.5
    rows, wanted = _with_one(latents), colours.flatten(1).T
    shrinkage = _SHRINKAGE * len(rows) * torch.eye(rows.shape[1], device=device)
    shrinkage[-1, -1] = 0.0
    fitted: Tensor = torch.linalg.solve(rows.T @ rows + shrinkage, rows.T @ wanted)
    return fitted


def preview(latents: Tensor, fitted: LinearMap) -> str:
    """Shows latents.

    Args:
        latents: Channels × height × width, scaled as the denoiser has them.
        fitted: What `fit_map` has made for their VAE.

    Returns:
        A data URL: WebP, a pixel for each of the latents, at most 128 on a side.

    Raises:
        GenerationError: The latents are not finite.
    """
    colours = (_with_one(latents.float()) @ fitted).T.reshape(1, 3, *latents.shape[-2:])
    return preview_url(to_pixels(colours)[0])


def _with_one(latents: Tensor) -> Tensor:
    """Channels × height × width → pixels × (channels + 1)."""
    rows = latents.flatten(1).T
    return torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)


def _colours() -> Tensor:
    """1 × 3 × 256 × 256 in -1 … 1: flat patches of all colours, and the corners of the cube of colours often among them."""
    generator, shape = torch.Generator().manual_seed(_SEED), (_PATCHES, _PATCHES)
    some, corners = torch.rand(1, 3, *shape, generator=generator), torch.randint(0, 2, (1, 3, *shape), generator=generator).float()
    patches = torch.where(torch.rand(1, 1, *shape, generator=generator) < 0.3, corners, some)
    return functional.interpolate(patches, (_SIDE, _SIDE), mode="nearest") * 2 - 1
