"""IP-Adapter references of each type, compared with diffusers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

from handlers.sdxl.features.ip_adapter import ADAPTERS_BY_TYPE
from shared.errors import Cancelled
from shared.media.images import Pixels
from shared.weights.addons import AddonLibrary
from small_models.training.sdxl.classifier import classify
from tests.handlers.conftest import RecordedRun
from tests.handlers.sdxl.adapters import (
    FACE,
    PLAIN,
    PROMPT,
    Sdxl,
    adapter_request,
    draw,
    image,
    pixels,
    plain_pipeline,
    recipe_with,
    write_all_adapters,
)

STYLE: dict[str, Any] = {"up": {"block_0": [0.0, 0.8, 0.0]}}
LAYOUT: dict[str, Any] = {"down": {"block_2": [0.0, 0.8]}}
"""The scales for style and layout from diffusers' documentation for SDXL."""


@pytest.fixture(scope="module")
def pipeline(tiny_models: Path) -> Any:
    return plain_pipeline(tiny_models)


@pytest.fixture(scope="module")
def addons(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all_adapters(tmp_path_factory.mktemp("addons"), pipeline)


@pytest.fixture(scope="module")
def recipe(tiny_models: Path, addons: Path) -> Sdxl:
    return recipe_with(tiny_models, addons)


@contextmanager
def recording_encoder_inputs() -> Iterator[list[tuple[int, ...]]]:
    """Records the input shapes of image encoders."""
    inputs: list[tuple[int, ...]] = []

    def note(module: Any, given: tuple[Any, ...]) -> None:
        if isinstance(module, CLIPVisionModelWithProjection):
            inputs.append(tuple(given[0].shape))

    with register_module_forward_pre_hook(note):
        yield inputs


@pytest.fixture(scope="module")
def adapted(tiny_models: Path, addons: Path) -> Callable[..., Any]:
    """Returns a diffusers pipeline with adapters loaded from their files, by name."""

    @lru_cache
    def make_pipeline(*names: str) -> Any:
        pipeline = plain_pipeline(tiny_models)
        size = {"height": 32, "width": 32}
        pipeline.register_modules(feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size))
        files = [f"{name}.safetensors" for name in names]
        pipeline.load_ip_adapter(str(addons / "ip_adapters"), subfolder="", weight_name=files, image_encoder_folder="image_encoder")
        pipeline.unet.requires_grad_(False)
        pipeline.vae.enable_slicing()
        return pipeline

    return make_pipeline


def expected(pipeline: Any, scale: Any, references: Any, count: int = 1, **call: Any) -> list[Pixels]:
    pipeline.set_ip_adapter_scale(scale)
    noise = [torch.Generator().manual_seed(7 + index) for index in range(count)]
    size = {} if "image" in call else {"width": 64, "height": 64}
    with torch.inference_mode():
        drawn = pipeline(
            PROMPT,
            negative_prompt="",
            num_inference_steps=10,
            num_images_per_prompt=count,
            generator=noise,
            ip_adapter_image=references,
            output_type="np",
            **{"guidance_scale": 2.0} | size | call,
        ).images
    return [(one * 255).round().astype(np.uint8) for one in drawn]


@pytest.mark.parametrize(
    ("kind", "name", "scale", "count", "guidance"),
    [
        ("style", PLAIN, STYLE, 1, 2.0),
        ("style", PLAIN, STYLE, 3, 2.0),
        ("composition", PLAIN, LAYOUT, 1, 1.0),
        ("composition", PLAIN, LAYOUT, 1, 2.0),
        ("character", FACE, 0.8, 1, 1.0),
        ("character", FACE, 0.8, 3, 2.0),
    ],
)
def test_each_reference_type_equals_diffusers_with_its_adapter_and_layers_bit_for_bit(
    recipe: Sdxl, adapted: Callable[..., Any], kind: str, name: str, scale: Any, count: int, guidance: float
) -> None:
    pipeline = expected(adapted(name), scale, image(), count, guidance_scale=guidance)
    drawn = draw(recipe, adapter_request(type=kind, config={"num_images": count, "guidance_scale": guidance}), image())
    assert len(drawn) == count
    assert all(np.array_equal(one.pixels, other) for one, other in zip(drawn, pipeline, strict=True))


def test_reference_types_yield_different_images(recipe: Sdxl) -> None:
    drawn = [pixels(recipe, adapter_request(type=kind), image()) for kind in ADAPTERS_BY_TYPE] + [
        pixels(recipe, adapter_request(main=None))
    ]
    assert len({one.tobytes() for one in drawn}) == len(drawn)


def test_several_references_equal_several_adapters_in_diffusers_bit_for_bit(recipe: Sdxl, adapted: Callable[..., Any]) -> None:
    one, other = image("red", "left"), image("green", "top")
    (pipeline,) = expected(adapted(PLAIN, PLAIN, FACE), [STYLE, LAYOUT, 0.4], [one, other, one])
    without_main = adapter_request({"type": "style"}, {"type": "composition"}, {"type": "character", "strength": 0.4}, main=None)
    assert np.array_equal(pixels(recipe, without_main, one, other, one), pipeline)
    with_main = adapter_request({"type": "composition"}, {"type": "character", "strength": 0.4}, type="style")
    assert np.array_equal(pixels(recipe, with_main, one, other, one), pipeline)


def test_adapters_combine_with_img2img_as_in_diffusers(recipe: Sdxl, adapted: Callable[..., Any]) -> None:
    from diffusers import StableDiffusionXLImg2ImgPipeline

    seeing = StableDiffusionXLImg2ImgPipeline(**adapted(PLAIN).components)
    (pipeline,) = expected(seeing, STYLE, image("green"), image=image(), strength=0.6)
    request = adapter_request({"type": "style"}, config={"denoise_strength": 0.6})
    assert np.array_equal(pixels(recipe, request, image(), image("green")), pipeline)


@pytest.mark.parametrize("strength", [0.2, 1.0])
def test_reference_strength_changes_the_image(recipe: Sdxl, strength: float) -> None:
    assert not np.array_equal(
        pixels(recipe, adapter_request(type="character", strength=strength), image()),
        pixels(recipe, adapter_request(type="character"), image()),
    )


def test_a_reference_of_strength_zero_is_skipped_with_a_warning(recipe: Sdxl) -> None:
    request = adapter_request({"strength": 0.0}, type="character", strength=0.0)
    with recording_encoder_inputs() as inputs:
        (drawn,) = draw(recipe, request, image(), image())
    assert inputs == []
    assert np.array_equal(drawn.pixels, pixels(recipe, adapter_request(main=None)))
    summary = recipe.summarize(request, [drawn])
    assert summary.warnings == [
        "metadata.reference_strength: at 0 the reference has no effect",
        "config.references[0].strength: at 0 the reference has no effect",
    ]
    assert (summary.metadata["reference_method"], summary.metadata["reference_strength"]) == ("adapter", 0.0)


def test_metadata_names_the_adapter_of_each_reference(recipe: Sdxl) -> None:
    request = adapter_request({"type": "composition", "strength": 0.5}, type="style")
    (drawn,) = draw(recipe, request, image(), image())
    assert drawn.metadata["references"] == [
        {"type": "style", "strength": 0.8, "adapter": PLAIN},
        {"type": "composition", "strength": 0.5, "adapter": PLAIN},
    ]
    summary = recipe.summarize(request, [drawn]).metadata
    assert (summary["reference_mode"], summary["reference_method"]) == ("style, composition", "adapter")
    assert not {"reference_strength", "denoise_strength"} & set(summary)
    without_main = recipe.summarize(adapter_request(type="character"), []).metadata
    assert (without_main["reference_mode"], without_main["reference_method"], without_main["reference_strength"]) == (
        "character",
        "adapter",
        0.8,
    )


def test_a_reference_is_encoded_once_per_job(recipe: Sdxl) -> None:
    with recording_encoder_inputs() as inputs:
        draw(recipe, adapter_request(config={"num_images": 6}), image(size=(200, 90)))
    assert inputs == [(1, 3, 32, 32)]


def test_adapters_and_the_image_encoder_are_cached_with_their_size(recipe: Sdxl, addons: Path) -> None:
    from handlers.sdxl.recipe import SdxlRecipe

    assert isinstance(recipe, SdxlRecipe)
    kept = AddonLibrary(addons)
    fresh = SdxlRecipe(recipe._pipeline, kept)
    draw(fresh, adapter_request(type="style"), image())
    draw(fresh, adapter_request(type="composition"), image())
    encoder = sum(tensor.nbytes for tensor in load_file(addons / "ip_adapters/image_encoder/model.safetensors").values())
    adapter = sum(tensor.nbytes for tensor in load_file(addons / f"ip_adapters/{PLAIN}.safetensors").values())
    assert 0 <= kept._cache.currsize - encoder - adapter < 1024, "an encoder has position ids in addition to its weights"


@pytest.mark.parametrize("plus", [False, True])
def test_adapters_do_not_affect_later_jobs(recipe: Sdxl, plus: bool) -> None:
    before, request = pixels(recipe, adapter_request(main=None)), adapter_request(type="character" if plus else "style")
    assert not np.array_equal(pixels(recipe, request, image()), before)
    with pytest.raises(Cancelled):
        draw(recipe, request, image(), recorded=RecordedRun(stop_at=3))
    assert np.array_equal(pixels(recipe, adapter_request(main=None)), before)


def test_the_small_adapter_reproduces_the_position_of_the_references_figure(small_models: Path, tmp_path: Path) -> None:
    shutil.copytree(small_models / "ip_adapters", tmp_path / "ip_adapters")
    (tmp_path / "ip_adapters/small.safetensors").rename(tmp_path / "ip_adapters/character.safetensors")
    trained = recipe_with(small_models, tmp_path)
    places = ("left", "right", "top", "bottom")

    def placed(strength: float) -> int:
        request = adapter_request(prompt=" ", type="character", strength=strength, config={"steps": 20})
        return sum(classify(pixels(trained, request, image(place=place))).place == place for place in places)

    assert placed(1.0) >= 3 > 1 >= placed(0.0)
