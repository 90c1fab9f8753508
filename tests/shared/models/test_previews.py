"""Latents as a small picture: near enough to see what is being made."""

from __future__ import annotations

import base64
from collections.abc import Callable
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
from shared.models.previews import LinearMap, fit_map, preview

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0)}


def opened(url: str) -> Pixels:
    head, _, content = url.partition(",")
    assert head == "data:image/webp;base64"
    with Image.open(BytesIO(base64.b64decode(content)), formats=["webp"]) as picture:
        return np.asarray(picture.convert("RGB"), np.uint8)


def halved(picture: Tensor) -> Tensor:
    """A coding that is linear: a quarter of the pixels, and channels in another order and scale."""
    small = functional.interpolate(picture, scale_factor=1 / 8, mode="area")[0]
    return torch.stack([3 * small[2] + 1, small[0] - small[1], -2 * small[1], torch.zeros_like(small[0])])


def test_a_coding_that_is_linear_is_undone() -> None:
    fitted = fit_map(halved, torch.device("cpu"))
    left_red_right_white = (
        torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]]).view(1, 3, 1, 2).repeat_interleave(64, 2).repeat_interleave(64, 3)
    )
    shown = opened(preview(halved(left_red_right_white), fitted)).astype(int)
    assert shown.shape == (8, 16, 3)
    assert np.abs(shown[4, 2] - (255, 0, 0)).max() < 24
    assert np.abs(shown[4, 13] - 255).max() < 24


def test_it_is_small_whatever_the_latents_are() -> None:
    fitted = fit_map(halved, torch.device("cpu"))
    url = preview(torch.randn(4, 100, 256, generator=torch.Generator().manual_seed(0)), fitted)
    assert opened(url).shape == (50, 128, 3)
    assert len(url) < 16_000


def test_latents_of_sdxl_show_their_colours(small_models: Path) -> None:
    vae = load_sdxl(small_models / "sdxl", torch.device("cpu"), torch.float32).vae

    def encode(picture: Tensor) -> Tensor:
        latents: Tensor = vae.encode(picture).latent_dist.mode()[0] * vae.config.scaling_factor
        return latents

    with torch.inference_mode():
        fitted = fit_map(encode, torch.device("cpu"))
        shown = {name: flat(encode, fitted, colour) for name, colour in COLOURS.items()}
    assert [int(shown[name].argmax()) for name in ("red", "green", "blue")] == [0, 1, 2]
    assert shown["black"].max() < 128 < shown["white"].min()


def flat(encode: Callable[[Tensor], Tensor], fitted: LinearMap, colour: tuple[int, int, int]) -> NDArray[np.float64]:
    """The mean colour of the preview of a picture of one colour."""
    picture = torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 64, 64) / 127.5 - 1
    return np.asarray(opened(preview(encode(picture), fitted)).reshape(-1, 3).mean(0))


def test_what_is_not_finite_is_not_shown() -> None:
    fitted = fit_map(halved, torch.device("cpu"))
    with pytest.raises(GenerationError):
        preview(torch.full((4, 8, 8), torch.nan), fitted)
