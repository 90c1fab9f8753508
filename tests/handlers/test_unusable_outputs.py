"""Unusable outputs, not finite or of a single colour, fail their job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from shared.errors import GenerationError
from shared.models.pixels import is_single_colour
from tests.doubles.fault_injection import raising_oom, returning_constant
from tests.handlers.conftest import RecordedRun, clip, generate, image_outputs, sdxl, wan

NAN, BLACK = float("nan"), -1.0


@contextmanager
def overflowing_in_half_precision(vae: Any) -> Iterator[None]:
    """A VAE that overflows in half precision like SDXL's: its first layer's outputs are too large, and the next layer scales them back."""
    weights = (vae.decoder.conv_in.weight, vae.decoder.conv_in.bias)
    before = [tensor.clone() for tensor in weights]
    with torch.no_grad():
        scale = 60_000 / max(float(tensor.abs().max()) for tensor in weights)
        for tensor in weights:
            tensor.mul_(scale)
    vae.half()
    yield
    vae.float()
    with torch.no_grad():
        for tensor, value in zip(weights, before, strict=True):
            tensor.copy_(value)


def test_an_image_that_overflows_in_half_precision_is_decoded_again_in_float32(sdxl_recipe: Any) -> None:
    vae = sdxl_recipe._pipeline.vae
    recorded = RecordedRun()
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    with overflowing_in_half_precision(vae):
        with torch.inference_mode():
            raw = vae.decode(torch.randn(1, 4, 8, 8).half(), return_dict=False)[0]
        assert not raw.isfinite().all(), "without the remedy there is nothing to be seen"
        with raising_oom(vae.decoder, times=0) as decoding, raising_oom(sdxl_recipe._pipeline.unet, times=0) as denoising:
            (image,) = image_outputs(generate(sdxl_recipe, sdxl(), recorded))
        assert vae.dtype == torch.float16
    assert len(decoding.batch_sizes) == 2
    assert len(denoising.batch_sizes) == len(recorded.steps), "nothing is denoised again"
    assert not is_single_colour(image.pixels)
    assert recorded.run.warnings == ["The VAE failed in half precision; the image was decoded in float32."]
    assert all(torch.allclose(tensor, before[name], atol=1e-3) for name, tensor in vae.state_dict().items())
    vae.load_state_dict(before)


@pytest.mark.parametrize("value", [NAN, BLACK, 1.0, 0.25])
def test_an_image_that_is_unusable_in_float32_fails(sdxl_recipe: Any, value: float) -> None:
    with returning_constant(sdxl_recipe._pipeline.vae.decoder, value), pytest.raises(GenerationError) as raised:
        generate(sdxl_recipe, sdxl())
    assert raised.value.retryable


def test_image_latents_that_are_not_finite_are_not_decoded(sdxl_recipe: Any) -> None:
    pipeline = sdxl_recipe._pipeline
    with (
        returning_constant(pipeline.unet, NAN),
        raising_oom(pipeline.vae.decoder, times=0) as decoding,
        pytest.raises(GenerationError, match="not finite"),
    ):
        generate(sdxl_recipe, sdxl())
    assert decoding.batch_sizes == []


def test_clip_latents_that_are_not_finite_are_not_decoded(wan_recipe: Any) -> None:
    pipelines = wan_recipe._pipelines
    with (
        returning_constant(pipelines.text_to_video.transformer, NAN),
        raising_oom(pipelines.vae.decoder, times=0) as decoding,
        pytest.raises(GenerationError, match="not finite"),
    ):
        list(clip(generate(wan_recipe, wan())).frames)
    assert decoding.batch_sizes == []


@pytest.mark.parametrize(
    ("network", "value", "reason"),
    [("transformer", NAN, "not finite"), ("decoder", NAN, "not finite"), ("decoder", BLACK, "single colour")],
)
def test_a_clip_that_is_not_finite_fails_before_its_last_frame(wan_recipe: Any, network: str, value: float, reason: str) -> None:
    pipelines = wan_recipe._pipelines
    spoiled = pipelines.vae.decoder if network == "decoder" else pipelines.text_to_video.transformer
    with returning_constant(spoiled, value), pytest.raises(GenerationError, match=reason):
        list(clip(generate(wan_recipe, wan())).frames)


@pytest.mark.parametrize("value", [NAN, BLACK])
def test_a_single_colour_image_of_wan_fails(wan_recipe: Any, value: float) -> None:
    with returning_constant(wan_recipe._pipelines.vae.decoder, value), pytest.raises(GenerationError):
        generate(wan_recipe, wan(kind="image_fast", frames=1))


def test_a_nearly_black_image_is_accepted() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    assert is_single_colour(black)
    black[40, 3, 1] = 1
    assert not is_single_colour(black)
