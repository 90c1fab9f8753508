"""Latents become frames, four at a time, so that a clip is never in memory as numbers of 32 bits."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from shared.media.images import Pixels
from shared.models.pixels import to_pixels


def decode_frames(vae: Any, latents: Tensor) -> Generator[Pixels]:
    """Decodes a clip as its VAE does, and hands over each frame as soon as it is there.

    The VAE is causal: it makes the first frame alone and then four for each latent frame, and keeps what later ones need of earlier ones.
    `vae.decode` does the same and puts all frames together first; each frame here equals its own, bit for bit.

    Args:
        vae: An `AutoencoderKLWan`.
        latents: 1 × channels × latent frames × height/8 × width/8, normalised as the transformer has them.

    Yields:
        Each frame, height × width × 3.

    Raises:
        GenerationError: The numbers are not finite.
    """
    shown = _denormalised(vae, latents.to(vae.dtype))
    if _is_tiled(vae, shown):
        yield from _as_pixels(vae.decode(shown, return_dict=False)[0])
        return
    vae.clear_cache()
    try:
        for index, latent in enumerate(torch.split(vae.post_quant_conv(shown), 1, dim=2)):
            vae._conv_idx = [0]  # the decoder counts its layers in it, to find what it kept for each
            first = {"first_chunk": True} if index == 0 else {}
            yield from _as_pixels(vae.decoder(latent, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, **first).clamp(-1.0, 1.0))
    finally:
        vae.clear_cache()


@contextmanager
def decoded_in(vae: Any, free: int | None, width: int, height: int) -> Iterator[bool]:
    """Decodes in tiles, of which less is in memory at once, where the whole does not fit.

    Tiles meet in seams that one may see, so they are used only then.

    Args:
        vae: An `AutoencoderKLWan`.
        free: Bytes of the GPU's memory that can be had; None on a CPU, which is never short of so little.
        width: In pixels.
        height: In pixels.

    Yields:
        Whether tiles are used.
    """
    with coded_in(vae, free, needed_to_decode(width, height)) as tiled:
        yield tiled


@contextmanager
def coded_in(vae: Any, free: int | None, needed: int) -> Iterator[bool]:
    """Has the VAE work in tiles while the body runs if `needed` bytes, for the whole, are more than are free. Yields whether."""
    tiled = free is not None and free < needed
    if tiled:
        vae.enable_tiling()
    try:
        yield tiled
    finally:
        if tiled:
            vae.disable_tiling()


def needed_to_decode(width: int, height: int) -> int:
    """Bytes that WAN's VAE works with while it decodes, in full precision; the same for any number of frames above four.

    8.3 GB were measured for 480 × 832 with the published VAE; what it works with grows with the number of pixels.
    """
    return int(8.3e9 * width * height / (480 * 832))


def encode_still(vae: Any, picture: Tensor) -> Tensor:
    """A picture's latents, as the transformer has them.

    Args:
        vae: An `AutoencoderKLWan`.
        picture: 1 × 3 × height × width in -1 … 1.

    Returns:
        Channels × height/8 × width/8.
    """
    mean, scale = _statistics(vae, picture)
    latents: Tensor = (vae.encode(picture[:, :, None].to(vae.dtype)).latent_dist.mode() - mean) * scale
    return latents[0, :, 0]


def _denormalised(vae: Any, latents: Tensor) -> Tensor:
    """The latents as the VAE has them."""
    mean, scale = _statistics(vae, latents)
    return latents / scale + mean


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the latents, and one over their deviation: diffusers divides by that, and the last bit depends on doing likewise."""
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean, deviation = (torch.tensor(vae.config[f"latents_{name}"]).view(shape).to(like) for name in ("mean", "std"))
    return mean, 1.0 / deviation


def _is_tiled(vae: Any, latents: Tensor) -> bool:
    ratio = vae.spatial_compression_ratio
    least = (vae.tile_sample_min_height // ratio, vae.tile_sample_min_width // ratio)
    return bool(vae.use_tiling) and bool(latents.shape[-2] > least[0] or latents.shape[-1] > least[1])


def _as_pixels(decoded: Tensor) -> Iterator[Pixels]:
    """1 × 3 × frames × height × width in -1 … 1 → its frames."""
    yield from to_pixels(decoded[0].transpose(0, 1) / 2 + 0.5)
