"""Accelerations apply only to the job that requests them, and images show the same as without."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers.sdxl.acceleration_names import BRANCHES
from handlers.sdxl.handler import load
from handlers.sdxl.recipe import SdxlRecipe
from handlers.sdxl.request import SdxlRequest
from shared.errors import Cancelled, ValidationError
from shared.jobs.recipe import ImageOutput
from shared.settings import Settings
from small_models.training.sdxl.classifier import classify
from tests.handlers.conftest import RecordedRun, generate, image_outputs, sdxl

URL = "https://a.example/b.png"
PROMPT = "a red square at the top, white background"
CACHES = tuple(BRANCHES)
REFERENCE: dict[str, Any] = {"image": URL, "denoise_strength": 0.9}
FEATURES: dict[str, dict[str, Any]] = {
    "no guidance": {"guidance_scale": 1.0},
    "ControlNet": {"controls": [{"kind": "canny", "image": URL, "strength": 0.7}]},
    "IP-Adapter": {"references": [{"image": URL, "type": "composition", "strength": 0.8}]},
    "LoRA": {"loras": [{"name": "stripes"}]},
    "img2img": REFERENCE,
    "inpainting": REFERENCE | {"mask": URL},
    "second-order scheduler": {"scheduler": "heun"},
    "three images": {"num_images": 3},
    "previews": {"preview": True},
}


@pytest.fixture(scope="module")
def recipe(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> SdxlRecipe:
    """The small model with all of its add-ons, the IP-Adapter under the name of a type."""
    addons = tmp_path_factory.mktemp("addons")
    for folder in ("loras", "controlnets", "ip_adapters"):
        shutil.copytree(small_models / folder, addons / folder)
    (addons / "ip_adapters/small.safetensors").rename(addons / "ip_adapters/composition.safetensors")
    loaded = load(Settings(sdxl_model=small_models / "sdxl", models_dir=addons, device="cpu"))
    assert isinstance(loaded, SdxlRecipe)
    return loaded


def request_with(acceleration: str | None = None, **config: Any) -> SdxlRequest:
    return sdxl(PROMPT, **{"guidance_scale": 2.0, **config}, **({"acceleration": acceleration} if acceleration else {}))


def draw(recipe: SdxlRecipe, request: SdxlRequest, recorded: RecordedRun | None = None) -> list[ImageOutput]:
    reference = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8))
    return image_outputs(generate(recipe, request, recorded, dict.fromkeys(request.references, reference)))


def same(one: list[ImageOutput], other: list[ImageOutput]) -> bool:
    return all(np.array_equal(first.pixels, second.pixels) for first, second in zip(one, other, strict=True))


def distance(one: ImageOutput, other: ImageOutput) -> float:
    """The root mean square of the difference, in levels of 255."""
    return float(np.sqrt(((one.pixels.astype(float) - other.pixels) ** 2).mean()))


@contextmanager
def counted_calls(recipe: SdxlRecipe) -> Iterator[dict[str, int]]:
    """Counts the calls of the UNet and of its inner and outer blocks."""
    unet, calls = recipe._pipeline.unet, {"unet": 0, "inner": 0, "outer": 0}

    def count(name: str) -> Any:
        def add(*_: object) -> None:
            calls[name] += 1

        return add

    modules = {"unet": unet.conv_in, "inner": unet.mid_block.resnets[0], "outer": unet.up_blocks[-1].resnets[-1]}
    handles = [module.register_forward_pre_hook(count(name)) for name, module in modules.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def test_the_default_computes_what_no_acceleration_does_bit_for_bit(recipe: SdxlRecipe) -> None:
    by_default, none = draw(recipe, request_with()), draw(recipe, request_with("none"))
    assert request_with().acceleration == "lossless"
    assert same(by_default, none)
    assert (by_default[0].metadata["acceleration"], by_default[0].metadata["accelerated_by"]) == ("lossless", [])
    assert none[0].metadata["acceleration"] == "none"
    assert "accelerated_by" not in none[0].metadata


@pytest.mark.parametrize(("cache", "nearest", "farthest"), [("deepcache", 0.02, 0.3), ("deepcache_shallow", 1.0, 8.0)])
def test_a_cache_skips_inner_blocks_keeps_the_content_and_does_not_affect_the_next_job(
    recipe: SdxlRecipe, cache: str, nearest: float, farthest: float
) -> None:
    """Features that are never refreshed change the image by 0.47 and 49 levels, those of another prompt by 1.5 and 81."""
    with counted_calls(recipe) as plain:
        whole = draw(recipe, request_with("none", steps=25))
    with counted_calls(recipe) as calls:
        fast = draw(recipe, request_with(cache, steps=25))
    assert plain == {"unet": 25, "inner": 25, "outer": 25}
    assert calls == {"unet": 25, "inner": 9, "outer": 25}
    assert nearest < distance(whole[0], fast[0]) < farthest
    assert classify(fast[0].pixels) == classify(whole[0].pixels)
    assert same(draw(recipe, request_with("none", steps=25)), whole)


def test_metadata_lists_the_accelerations(recipe: SdxlRecipe) -> None:
    for acceleration, name in (("fast", "deepcache"), ("deepcache", "deepcache"), ("deepcache_shallow", "deepcache_shallow")):
        (image,) = draw(recipe, request_with(acceleration))
        assert (image.metadata["acceleration"], image.metadata["accelerated_by"]) == (acceleration, [name])


def test_fast_is_deepcache(recipe: SdxlRecipe) -> None:
    assert same(draw(recipe, request_with("fast")), draw(recipe, request_with("deepcache")))


@pytest.mark.parametrize("cache", CACHES)
def test_a_cancelled_job_removes_its_cache(recipe: SdxlRecipe, cache: str) -> None:
    before, cached = draw(recipe, request_with()), draw(recipe, request_with(cache))
    with pytest.raises(Cancelled):
        draw(recipe, request_with(cache), RecordedRun(stop_at=5))
    assert same(draw(recipe, request_with()), before)
    assert same(draw(recipe, request_with(cache)), cached)


@pytest.mark.parametrize("feature", FEATURES)
def test_a_cache_works_together_with_every_feature(recipe: SdxlRecipe, feature: str) -> None:
    config = FEATURES[feature]
    with counted_calls(recipe) as calls:
        fast = draw(recipe, request_with("deepcache_shallow", **config))
    assert calls["inner"] == -(-calls["unet"] // 3)
    assert calls["outer"] == calls["unet"]
    plain = draw(recipe, request_with(**config))
    assert not same(fast, plain)
    assert all(distance(one, other) < 16 for one, other in zip(fast, plain, strict=True))


@pytest.mark.parametrize(
    ("config", "other"),
    [
        ({"scheduler": "lcm", "steps": 4}, r'`config\.scheduler: "lcm"`'),
        ({"scheduler": "tcd", "steps": 25}, r'`config\.scheduler: "tcd"`'),
        ({"scheduler": "euler_trailing", "steps": 4}, r"`config\.steps: 4`"),
    ],
)
def test_the_few_steps_of_distilled_models_are_refused_before_any_work(recipe: SdxlRecipe, config: dict[str, Any], other: str) -> None:
    with pytest.raises(ValidationError, match=rf'`config\.acceleration: "fast"` cannot be combined with {other}$'):
        recipe.check(request_with("fast", **config))
    recipe.check(request_with("lossless", **config))
    recipe.check(request_with("fast", scheduler="euler_trailing"))


def test_a_worker_that_does_not_compile_warns_a_caller_who_asks_for_it(recipe: SdxlRecipe) -> None:
    warnings = recipe.summarize(request_with("lossless"), ()).warnings
    assert warnings == ["`config.acceleration` has no effect on this worker's device; got lossless"]
    assert [recipe.summarize(request, ()).warnings for request in (request_with(), request_with("none"), request_with("fast"))] == [[]] * 3
