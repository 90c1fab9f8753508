"""Ways to be faster act for the job that asks for them, and for no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from builder.small.shapes import Pixels
from builder.small.wan.check import load_recipe
from builder.small.wan.detector import read_clip
from handlers.wan.decoding import decoded_in, needed_to_decode
from handlers.wan.generate import WanRecipe
from shared.contract.wan import WanRequest
from shared.errors import Cancelled
from shared.models.diffusion import load_wan
from tests.handlers.conftest import Watched, clip, make, wan

PROMPT = "a red circle moves to the right on a blue background"


@pytest.fixture(scope="module")
def recipe(small_models: Path) -> WanRecipe:
    loaded = load_recipe(small_models / "wan")
    assert isinstance(loaded, WanRecipe)
    return loaded


def request(acceleration: str) -> WanRequest:
    return wan(PROMPT, steps=20, guidance_scale=3.0, acceleration=acceleration)


def film(recipe: WanRecipe, acceleration: str) -> Pixels:
    return np.stack(list(clip(make(recipe, request(acceleration))).frames))


@contextmanager
def counted(recipe: WanRecipe) -> Iterator[list[int]]:
    """How often the transformer's last block is called."""
    calls = [0]

    def count(*_: object) -> None:
        calls[0] += 1

    block = recipe._pipelines.text.transformer.blocks[-1]
    handle = block.attn1.to_out[0].register_forward_hook(count)
    try:
        yield calls
    finally:
        handle.remove()


def test_fast_calls_the_later_blocks_less_often_and_shows_the_same(recipe: WanRecipe) -> None:
    with counted(recipe) as plain:
        whole = film(recipe, "none")
    with counted(recipe) as calls:
        fast = film(recipe, "fast")
    assert plain == [40]
    assert calls[0] < 36
    assert not np.array_equal(fast, whole)
    assert (read_clip(fast).color, read_clip(fast).motion) == (read_clip(whole).color, read_clip(whole).motion) == ("red", "right")


def test_the_next_job_is_not_accelerated(recipe: WanRecipe) -> None:
    before = film(recipe, "none")
    film(recipe, "fast")
    assert np.array_equal(film(recipe, "none"), before)


def test_a_stopped_job_takes_its_acceleration_off(recipe: WanRecipe) -> None:
    before = film(recipe, "none")
    with pytest.raises(Cancelled):
        make(recipe, request("fast"), Watched(stop_at=7))
    assert np.array_equal(film(recipe, "none"), before)


def test_the_payload_names_it(recipe: WanRecipe) -> None:
    assert make(recipe, request("fast"))[0].metadata["acceleration"] == "fast"


def test_a_clip_is_decoded_in_tiles_only_where_the_whole_does_not_fit(tiny_models: Path) -> None:
    vae = load_wan(tiny_models / "wan", torch.device("cpu"), torch.float32).text.vae
    needed = needed_to_decode(480, 832)
    for free, tiled in ((None, False), (needed, False), (needed - 1, True)):
        with decoded_in(vae, free, 480, 832) as is_tiled:
            assert (is_tiled, vae.use_tiling) == (tiled, tiled)
        assert not vae.use_tiling
    assert needed_to_decode(64, 64) < needed / 90
