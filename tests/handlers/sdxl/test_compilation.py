"""SDXL's compiled blocks: compiled while idle for all kinds of requests, and used by all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.sdxl.compilation import compiled_networks
from handlers.sdxl.recipe import SdxlRecipe
from handlers.sdxl.weights.load import load_sdxl
from shared.jobs.recipe import ImageOutput
from shared.weights.addons import AddonLibrary
from tests.handlers.conftest import generate, image_outputs, sdxl
from tests.handlers.sdxl.files import write_lora

REFERENCE = "metadata.reference_image_url"
GRAPHS = 33
"""Of the small model: 12 shapes of blocks in the UNet, with one sample and with more, and 9 graphs of the decoder's 7 shapes."""

LONG = "a red circle on a white background, " * 12
SHAPES: list[dict[str, Any]] = [{}, {"num_images": 3}, {"num_images": 6}, {"resolution": "72x64"}, {"resolution": "64x72"}]
FEATURES: list[dict[str, Any]] = [
    {"scheduler": "tcd"},
    {"prompt": LONG},
    {"loras": [{"name": "ink", "scale": 0.7}]},
    {"loras": [{"name": "ink", "scale": -0.3}], "num_images": 3},
    {"image": "https://a.example/b.png", "denoise_strength": 0.6, "steps": 2},
    {"clip_skip": 1},
]
REQUESTS = [
    *SHAPES,
    *({**shape, "guidance_scale": 1.0} for shape in SHAPES),
    *FEATURES,
    *({**FEATURES[index], "guidance_scale": 1.0} for index in (1, 2, 4)),
    {},
]


class Backend:
    """A compiler that runs graphs as they are, and counts them and their calls."""

    def __init__(self) -> None:
        self.graphs = self.calls = 0

    def __call__(self, graph: Any, _inputs: object) -> Callable[..., Any]:
        self.graphs += 1

        def run(*values: Any) -> Any:
            self.calls += 1
            return graph(*values)

        return run


@pytest.fixture(scope="module")
def addons(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> AddonLibrary:
    folder = tmp_path_factory.mktemp("addons")
    write_lora(folder / "loras/ink.safetensors", load_sdxl(small_models / "sdxl", torch.device("cpu"), torch.float32), "kohya")
    return AddonLibrary(folder)


@pytest.fixture
def pipeline(small_models: Path) -> Iterator[Any]:
    """The small model with the memory layout that it has on a GPU."""
    torch._dynamo.reset()
    loaded: Any = load_sdxl(small_models / "sdxl", torch.device("cpu"), torch.float32)
    for network in (loaded.unet, loaded.vae):
        network.to(memory_format=torch.channels_last)
    yield loaded
    torch._dynamo.reset()


def images(recipe: SdxlRecipe, **config: Any) -> list[ImageOutput]:
    reference = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    settings: dict[str, Any] = {"scheduler": "lcm", "steps": 1}
    request = sdxl(**(settings | config))
    return image_outputs(generate(recipe, request, references=dict.fromkeys(request.references, reference)))


@pytest.mark.slow
def test_twenty_different_requests_use_what_was_compiled_while_idle_and_compile_nothing(pipeline: Any, addons: AddonLibrary) -> None:
    assert len(REQUESTS) == 20
    backend = Backend()
    networks = compiled_networks(pipeline, backend=backend)
    recipe, plain = SdxlRecipe(pipeline, addons, compiled_networks=networks), SdxlRecipe(pipeline, addons)
    assert images(recipe)[0].metadata["accelerated_by"] == []
    for piece in recipe.idle_work():
        piece()
    assert backend.graphs == GRAPHS
    unet, decoder = (len(network._blocks) for network in networks)
    for config in REQUESTS:
        calls = backend.calls
        made = images(recipe, **config)
        assert backend.calls - calls == unet + len(made) * decoder, config
        assert {tuple(image.metadata["accelerated_by"]) for image in made} == {("compiled_blocks",)}  # type: ignore[arg-type]
        assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(made, images(plain, **config), strict=True))
    assert backend.graphs == GRAPHS


@pytest.mark.slow
def test_deepcache_uses_compiled_blocks_and_no_acceleration_does_not(pipeline: Any, addons: AddonLibrary) -> None:
    backend = Backend()
    recipe = SdxlRecipe(pipeline, addons, compiled_networks=compiled_networks(pipeline, backend=backend)[:1])
    for piece in recipe.idle_work():
        piece()
    blocks, graphs = len(recipe._compiled[0]._blocks), backend.graphs
    settings: dict[str, Any] = {"scheduler": "euler", "steps": 10}
    for config in ({}, {"guidance_scale": 1.0}, {"loras": [{"name": "ink", "scale": 0.7}]}):
        calls = backend.calls
        (plain,) = images(recipe, acceleration="none", **settings, **config)
        assert backend.calls == calls
        (cached,) = images(recipe, acceleration="deepcache_shallow", **settings, **config)
        assert 4 * blocks < backend.calls - calls < 10 * blocks
        assert cached.metadata["accelerated_by"] == ["deepcache_shallow", "compiled_blocks"]
        (uncompiled,) = images(SdxlRecipe(pipeline, addons), acceleration="deepcache_shallow", **settings, **config)
        assert np.array_equal(cached.pixels, uncompiled.pixels)
        assert not np.array_equal(cached.pixels, plain.pixels)
    assert backend.graphs == graphs
    assert recipe.summarize(sdxl(acceleration="lossless"), ()).warnings == []
