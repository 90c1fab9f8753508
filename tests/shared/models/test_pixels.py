"""Decoder output becomes 8-bit pixels, or an error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor

from shared.errors import GenerationError
from shared.models.pixels import all_finite, decoded_to_pixels, is_single_colour, to_pixels


def test_black_is_0_white_is_255_and_other_values_are_clipped() -> None:
    values = torch.tensor([-3.0, 0.0, 0.5, 1.0, 7.0]).expand(1, 3, 1, 5)
    assert to_pixels(values)[0, 0].tolist() == [[0, 0, 0], [0, 0, 0], [128, 128, 128], [255, 255, 255], [255, 255, 255]]


def test_the_layout_is_images_height_width_channels() -> None:
    images = torch.zeros(2, 3, 4, 6)
    images[1, 0] = 1.0
    pixels = to_pixels(images)
    assert pixels.shape == (2, 4, 6, 3)
    assert pixels.dtype == np.uint8
    assert (pixels[1] == (255, 0, 0)).all()


def test_values_are_rounded_and_not_truncated() -> None:
    levels = torch.arange(256) / 255
    noisy = (levels - 0.4 / 255).expand(1, 3, 1, 256)
    assert to_pixels(noisy)[0, 0, :, 0].tolist() == list(range(256))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_value_that_is_not_finite_is_an_error_and_never_a_black_pixel(value: float, dtype: torch.dtype) -> None:
    images = torch.zeros(1, 3, 8, 8, dtype=dtype)
    images[0, 1, 2, 3] = value
    with pytest.raises(GenerationError, match="not finite"):
        to_pixels(images)


def test_large_values_whose_sum_overflows_are_finite() -> None:
    assert all_finite(torch.full((1, 3, 8, 8), 3e38))
    assert all_finite(torch.full((1, 3, 64, 64), 65504.0, dtype=torch.float16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_pixels_equal_those_of_diffusers(dtype: torch.dtype) -> None:
    decoded = (torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(7)) * 2.4 - 1.2).to(dtype)
    expected = VaeImageProcessor().postprocess(decoded.clone(), output_type="np")
    assert np.array_equal(decoded_to_pixels(decoded), VaeImageProcessor.numpy_to_pil(expected))


def test_pixels_are_contiguous_so_that_no_encoder_copies_them() -> None:
    assert to_pixels(torch.rand(2, 3, 16, 24)).flags.c_contiguous


def test_an_image_with_one_row_of_a_single_colour_is_not_a_single_colour() -> None:
    pixels = np.full((8, 8, 3), 7, np.uint8)
    assert is_single_colour(pixels)
    pixels[5, 3, 1] = 8
    assert not is_single_colour(pixels)
