from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from handlers.sdxl.weights.load import load_sdxl
from shared.errors import GenerationError
from shared.media.images import Pixels
from shared.models.previews import LatentPreviewer

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0)}


def opened(url: str) -> Pixels:
    head, _, content = url.partition(",")
    assert head == "data:image/webp;base64"
    with Image.open(BytesIO(base64.b64decode(content)), formats=["webp"]) as image:
        return np.asarray(image.convert("RGB"), np.uint8)


def linear_encode(image: Tensor) -> Tensor:
    """A linear encoder: 1/64 of the pixels, with the channels mixed and scaled."""
    small = functional.interpolate(image, scale_factor=1 / 8, mode="area")[0]
    return torch.stack([3 * small[2] + 1, small[0] - small[1], -2 * small[1], torch.zeros_like(small[0])])


@pytest.fixture
def previewer() -> LatentPreviewer:
    return LatentPreviewer(linear_encode, torch.device("cpu"))


def test_colours_are_recovered_from_a_linear_encoder(previewer: LatentPreviewer) -> None:
    left_red_right_white = (
        torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]]).view(1, 3, 1, 2).repeat_interleave(64, 2).repeat_interleave(64, 3)
    )
    shown = opened(previewer.render(linear_encode(left_red_right_white))).astype(int)
    assert shown.shape == (8, 16, 3)
    assert np.abs(shown[4, 2] - (255, 0, 0)).max() < 24
    assert np.abs(shown[4, 13] - 255).max() < 24


def test_a_preview_is_bounded_in_pixels_and_bytes(previewer: LatentPreviewer) -> None:
    url = previewer.render(torch.randn(4, 100, 256, generator=torch.Generator().manual_seed(0)))
    assert opened(url).shape == (50, 128, 3)
    assert len(url) < 16_000


def test_the_map_is_fitted_once_and_on_first_use() -> None:
    encoded: list[Tensor] = []

    def encode(image: Tensor) -> Tensor:
        encoded.append(image)
        return linear_encode(image)

    previewer = LatentPreviewer(encode, torch.device("cpu"))
    assert not encoded
    for _ in range(2):
        previewer.render(torch.zeros(4, 8, 8))
    assert len(encoded) == 1


def test_sdxl_latents_show_their_colours(small_models: Path) -> None:
    vae = load_sdxl(small_models / "sdxl", torch.device("cpu"), torch.float32).vae

    def encode(image: Tensor) -> Tensor:
        latents: Tensor = vae.encode(image).latent_dist.mode()[0] * vae.config.scaling_factor
        return latents

    sdxl_previewer = LatentPreviewer(encode, torch.device("cpu"))

    def mean_colour(colour: tuple[int, int, int]) -> NDArray[np.float64]:
        """The mean colour of the preview of a uniform image."""
        image = torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 64, 64) / 127.5 - 1
        return np.asarray(opened(sdxl_previewer.render(encode(image))).reshape(-1, 3).mean(0))

    with torch.inference_mode():
        shown = {name: mean_colour(colour) for name, colour in COLOURS.items()}
    assert [int(shown[name].argmax()) for name in ("red", "green", "blue")] == [0, 1, 2]
    assert shown["black"].max() < 128 < shown["white"].min()


def test_latents_that_are_not_finite_raise_an_error(previewer: LatentPreviewer) -> None:
    with pytest.raises(GenerationError):
        previewer.render(torch.full((4, 8, 8), torch.nan))
