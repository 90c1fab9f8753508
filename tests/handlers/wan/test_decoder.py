"""The decoder moves less memory than diffusers'; in float32 with the same bits, in half precision within one level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.wan_decoder import by_diffusers, count, in_float16
from handlers.wan.decoder import StreamingDecoder
from handlers.wan.decoding import decode_frames, decode_memory, decode_with_fallbacks
from shared.media.images import Pixels
from small_models.training.wan.latents import make_latent_clips


@pytest.fixture(scope="module")
def vae(small_models: Path) -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan.from_pretrained(small_models / "wan/vae").eval().requires_grad_(False)


@pytest.fixture(scope="module")
def latents(vae: Any) -> torch.Tensor:
    """Of three rendered clips of 17 frames; of a clip with whole figures."""
    with torch.inference_mode():
        return make_latent_clips(vae, 3, 17, seed=5).latents


def frames_of(vae: Any, latents: torch.Tensor, dtype: torch.dtype) -> Pixels:
    with torch.inference_mode():
        return np.stack(list(decode_frames(vae, latents, dtype)))


def test_every_frame_in_float32_equals_that_of_diffusers(vae: Any, latents: torch.Tensor) -> None:
    with torch.inference_mode():
        decoder = StreamingDecoder(vae.decoder, torch.float32)
        for frames, latent in zip(by_diffusers(vae, latents[:1]), torch.split(latents[:1], 1, dim=2), strict=True):
            assert torch.equal(decoder.decode(latent), frames)


def test_half_precision_differs_by_one_level_at_most(vae: Any, latents: torch.Tensor) -> None:
    for clip in torch.split(latents, 1):
        full, half = (frames_of(vae, clip, dtype).astype(int) for dtype in (torch.float32, torch.float16))
        assert np.abs(half - full).max() == 1
        assert (half != full).mean() < 0.05


def test_a_clip_beyond_the_range_of_half_precision_is_decoded_in_float32(vae: Any, latents: torch.Tensor) -> None:
    hot = vae.__class__.from_config(vae.config).eval().requires_grad_(False)
    hot.load_state_dict(vae.state_dict())
    hot.decoder.conv_in.bias.mul_(2.0**40)
    warnings: list[str] = []
    with torch.inference_mode():
        made = list(decode_with_fallbacks(hot, latents[:1], (), warnings.append, free=None, dtype=torch.float16))
    assert np.array_equal(np.stack(made), frames_of(hot, latents[:1], torch.float32))
    assert warnings == ["The VAE failed in half precision; the clip was decoded in float32."]


def test_a_decoding_in_half_precision_leaves_the_weights_as_they_are(vae: Any, latents: torch.Tensor) -> None:
    before = {name: weight.clone() for name, weight in vae.state_dict().items()}
    frames_of(vae, latents[:1], torch.float16)
    assert all(torch.equal(weight, before[name]) for name, weight in vae.state_dict().items())


def test_at_full_size_half_precision_moves_less_than_a_quarter_of_the_bytes_in_the_estimated_memory() -> None:
    before, after = (count(decode, latent_frames=3) for decode in (by_diffusers, in_float16))
    assert before.flops == after.flops
    assert after.moved < before.moved / 4
    assert after.peak < decode_memory(480, 832, torch.float16) < 1.1 * after.peak
