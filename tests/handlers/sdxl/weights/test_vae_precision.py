"""Decoders in half precision: nothing overflows, and images differ by at most one level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from handlers.sdxl.decoding import decoder_dtype
from handlers.sdxl.weights.checkpoint import PUBLISHED_CONFIG
from handlers.sdxl.weights.vae_precision import (
    largest_activation,
    scale_activations,
    upcast_decoder,
    use_half_precision_decoder,
)
from shared.media.images import Pixels
from shared.models.pixels import decoded_to_pixels
from small_models.training.sdxl.dataset import generate_dataset


@pytest.fixture
def trained(small_models: Path) -> Any:
    return AutoencoderKL.from_pretrained(small_models / "sdxl/vae").requires_grad_(False).eval()


@pytest.fixture
def with_attention() -> Any:
    """A VAE with random weights and every kind of layer of SDXL's: an attention layer, and shortcuts between widths."""
    torch.manual_seed(0)
    config = AutoencoderKL.load_config(PUBLISHED_CONFIG / "vae")
    return AutoencoderKL.from_config({**config, "block_out_channels": (8, 16, 16, 16), "norm_num_groups": 4}).requires_grad_(False).eval()


@torch.inference_mode()
def latents_of(vae: Any) -> torch.Tensor:
    """Latents of three images."""
    _, images = generate_dataset(3, 5, pairs=0.3)
    latents: torch.Tensor = vae.encode(torch.from_numpy(images.transpose(0, 3, 1, 2) / 127.5 - 1).float()).latent_dist.mode()
    return latents


@torch.inference_mode()
def raw(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    decoded: torch.Tensor = vae.decode(latents.to(decoder_dtype(vae))).sample
    return decoded


def pixels(vae: Any, latents: torch.Tensor) -> Pixels:
    made: Pixels = decoded_to_pixels(raw(vae, latents).clone())
    return made


@pytest.mark.parametrize("exponent", [-9, 5, 14])
def test_scaled_activations_give_the_same_images_to_the_bit(trained: Any, with_attention: Any, exponent: int) -> None:
    for vae in (trained, with_attention):
        latents = latents_of(vae)
        expected, before = raw(vae, latents), largest_activation(vae)
        scale_activations(vae.decoder, 2.0**exponent)
        assert torch.equal(raw(vae, latents), expected)
        if exponent > 0:
            assert largest_activation(vae) > 16 * before


def test_a_decoder_that_overflows_in_half_precision_is_scaled_and_differs_by_one_level(trained: Any) -> None:
    scale_activations(trained.decoder, 2.0**14)
    latents = latents_of(trained)
    expected, encoder = pixels(trained, latents), trained.encoder.conv_in.weight.clone()
    assert largest_activation(trained) > 65504
    with torch.inference_mode():
        assert not trained.decoder.half()(latents.half()).isfinite().all(), "half precision alone overflows"
    trained.decoder.float()
    use_half_precision_decoder(trained)
    assert 250 < largest_activation(trained) <= 1100
    assert (decoder_dtype(trained), trained.dtype) == (torch.float16, torch.float32)
    difference = np.abs(pixels(trained, latents).astype(int) - expected)
    assert difference.max() == 1
    assert (difference > 0).mean() < 0.04
    assert torch.equal(trained.encoder.conv_in.weight, encoder)


def test_a_decoder_that_does_not_overflow_keeps_its_weights(trained: Any) -> None:
    before = {name: tensor.half() for name, tensor in trained.decoder.state_dict().items()}
    use_half_precision_decoder(trained)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.decoder.state_dict().items())


def test_a_decoder_that_is_not_finite_stays_in_full_precision(trained: Any) -> None:
    trained.decoder.conv_in.weight.fill_(3e38)
    use_half_precision_decoder(trained)
    assert decoder_dtype(trained) == torch.float32


def test_an_upcast_decoder_returns_to_half_precision(trained: Any) -> None:
    use_half_precision_decoder(trained)
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    with torch.inference_mode(), upcast_decoder(trained):
        assert decoder_dtype(trained) == trained.post_quant_conv.weight.dtype == torch.float32
    assert decoder_dtype(trained) == trained.post_quant_conv.weight.dtype == torch.float16
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
