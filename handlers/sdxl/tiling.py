"""Tiled VAE work: the fallback for images whose activations do not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from handlers.sdxl.memory import TILE
from shared.models.oom import tiled


@contextmanager
def in_small_tiles(vae: Any) -> Iterator[None]:
    """Makes an `AutoencoderKL` work in tiles of at most 512 × 512 pixels while the body runs.

    Its own tiles are as large as the images that it was trained on, 1024 × 1024 for SDXL, and would save nothing on most images. They
    overlap by a quarter, over which diffusers blends them.
    """
    side, latent_side = vae.tile_sample_min_size, vae.tile_latent_min_size
    vae.tile_sample_min_size = min(TILE, side)
    vae.tile_latent_min_size = vae.tile_sample_min_size * latent_side // side
    try:
        with tiled(vae):
            yield
    finally:
        vae.tile_sample_min_size, vae.tile_latent_min_size = side, latent_side
