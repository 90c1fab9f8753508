"""Decoder output becomes 8-bit pixels, or an error."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shared.errors import GenerationError
from shared.models.pixels import to_pixels


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
