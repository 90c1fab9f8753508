"""Tiles of 512 pixels, in which the VAE works when memory is short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from handlers.sdxl.tiling import in_small_tiles
from handlers.sdxl.weights.checkpoint import PUBLISHED_CONFIG
from shared.media.images import Pixels
from shared.models.pixels import decoded_to_pixels
from small_models.training.sdxl.dataset import generate_dataset
from tests.doubles.fault_injection import raising_oom


@pytest.fixture
def published_vae() -> Any:
    with torch.device("meta"):
        return AutoencoderKL.from_config(AutoencoderKL.load_config(PUBLISHED_CONFIG / "vae"))


@pytest.fixture
def trained_vae(small_models: Path) -> Any:
    """The small trained VAE, with the tiles of the published one."""
    vae: Any = AutoencoderKL.from_pretrained(small_models / "sdxl/vae").requires_grad_(False).eval()
    vae.tile_sample_min_size, vae.tile_latent_min_size = 1024, 128
    return vae


def tiles(vae: Any) -> tuple[bool, int, int]:
    return vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size


def test_the_published_vae_has_tiles_of_512_pixels_while_memory_is_short_and_its_own_afterwards(published_vae: Any) -> None:
    before = tiles(published_vae)
    assert before == (False, 1024, 128)
    with in_small_tiles(published_vae):
        assert tiles(published_vae) == (True, 512, 64)
    assert tiles(published_vae) == before
    with pytest.raises(KeyError), in_small_tiles(published_vae):
        raise KeyError
    assert tiles(published_vae) == before


def test_a_vae_with_smaller_tiles_keeps_them(published_vae: Any) -> None:
    published_vae.tile_sample_min_size, published_vae.tile_latent_min_size = 256, 32
    with in_small_tiles(published_vae):
        assert tiles(published_vae) == (True, 256, 32)


def test_an_image_that_is_decoded_in_tiles_is_close_to_the_same_image_decoded_whole(trained_vae: Any) -> None:
    """Each tile has its own statistics in group normalisation: 1.0 level on average, 39 dB on a mosaic of images."""
    latents = encoded(trained_vae, mosaic(16))
    whole = decoded(trained_vae, latents)
    with raising_oom(trained_vae.decoder, times=0) as decoding, in_small_tiles(trained_vae):
        tiled = decoded(trained_vae, latents)
    difference = np.abs(whole.astype(int) - tiled)
    assert whole.shape == (1024, 1024, 3)
    assert len(decoding.batch_sizes) == 9
    assert difference.mean() <= 1.2
    assert 10 * np.log10(255**2 / (difference**2).mean()) >= 38


def mosaic(count: int) -> torch.Tensor:
    """An image of `count` × `count` images that the VAE was trained on: 1 × 3 × height × width in -1 … 1."""
    _, images = generate_dataset(count**2, 1, pairs=0.3)
    rows = [np.concatenate(list(images[start : start + count]), axis=1) for start in range(0, count**2, count)]
    return torch.from_numpy(np.concatenate(rows).transpose(2, 0, 1)[None].copy()).float() / 127.5 - 1


@torch.inference_mode()
def encoded(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    latents: torch.Tensor = vae.encode(pixels).latent_dist.mode()
    return latents


@torch.inference_mode()
def decoded(vae: Any, latents: torch.Tensor) -> Pixels:
    pixels: Pixels = decoded_to_pixels(vae.decode(latents).sample)[0]
    return pixels
