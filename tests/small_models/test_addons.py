"""The committed add-ons load through diffusers' public loaders and have the effects that their model cards claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from small_models.training.addons import ip_adapter, lora
from small_models.training.addons.edges import edge_map
from small_models.training.addons.evaluation import load_controlnet_pipeline, load_ip_adapter
from small_models.training.addons.stripes import stripe_contrast, with_plain_background, with_stripes
from small_models.training.sdxl.classifier import classify
from small_models.training.sdxl.dataset import Figure, Scene, render
from small_models.training.sdxl.generation import generate_images, load_pipeline

_SQUARE = Scene((Figure("square", "red", "top left", "large"),), "white", False)
_STAR = Scene((Figure("star", "red", "bottom right", "large"),), "white", False)
_SEEDS = [0, 1, 2, 3]


def rendered(scene: Scene) -> Any:
    return render(scene, np.random.default_rng(0))


@pytest.fixture(scope="module")
def pipeline(small_models: Path) -> Any:
    """The small SDXL. Tests remove the add-ons that they load."""
    return load_pipeline(small_models / "sdxl")


def test_the_edge_map_of_a_square_is_its_border_and_stripes_have_no_edges() -> None:
    image = np.full((64, 64, 3), 245, np.uint8)
    image[10:40, 20:50] = (225, 35, 35)
    edges = edge_map(image)[..., 0] > 0
    # An edge is drawn on the last pixel before the step.
    border = np.zeros((64, 64), bool)
    border[9:40, [19, 49]] = True
    border[[9, 39], 19:50] = True
    assert (edges != border).sum() <= 4  # corners may be missing
    assert not edge_map(rendered(with_stripes(_SQUARE))[:, 48:]).any()


def test_stripe_contrast_is_one_for_rendered_stripes_and_zero_for_a_plain_background() -> None:
    assert stripe_contrast(rendered(with_stripes(_SQUARE)), _SQUARE) == pytest.approx(1, abs=0.05)
    assert stripe_contrast(rendered(with_plain_background(_SQUARE)), _SQUARE) == pytest.approx(0, abs=0.05)


def test_the_lora_adds_stripes_to_the_background_and_unloading_it_restores_the_model(pipeline: Any, small_models: Path) -> None:
    prompts = ["a red square at the top left"] * 4
    before = generate_images(pipeline, prompts, _SEEDS)
    pipeline.load_lora_weights(str(small_models / "loras"), weight_name=lora.FILE_NAME, adapter_name="stripes")
    assert pipeline.get_list_adapters() == {"unet": ["stripes"]}
    with_lora = generate_images(pipeline, prompts, _SEEDS)
    pipeline.unload_lora_weights()
    assert np.array_equal(generate_images(pipeline, prompts, _SEEDS), before)
    plain, striped = (np.mean([stripe_contrast(image, _SQUARE) for image in images]) for images in (before, with_lora))
    assert plain < 0.1
    assert striped > 0.3


def test_the_ip_adapter_reproduces_shape_and_place_of_a_reference_with_an_empty_prompt(pipeline: Any, small_models: Path) -> None:
    load_ip_adapter(pipeline, small_models / "ip_adapters")
    reference = Image.fromarray(rendered(Scene((Figure("circle", "red", "left", "large"),), "blue", False)))
    predictions = [classify(image) for image in generate_images(pipeline, [""] * 4, _SEEDS, ip_adapter_image=reference)]
    pipeline.unload_ip_adapter()
    assert sum(prediction.shape == "circle" for prediction in predictions) >= 3
    assert sum(prediction.place == "left" for prediction in predictions) >= 3


def test_the_image_encoder_and_the_ip_adapter_have_no_missing_or_unexpected_weights(small_models: Path) -> None:
    from transformers import CLIPVisionModelWithProjection

    folder = small_models / "ip_adapters" / "image_encoder"
    loaded: Any = CLIPVisionModelWithProjection.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    encoder, report = loaded
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert encoder.config.projection_dim == 64
    weights = load_file(small_models / "ip_adapters" / ip_adapter.FILE_NAME)
    assert {name.split(".")[0] for name in weights} == {"image_proj", "ip_adapter"}
    assert all(weight.dtype == torch.float16 for weight in weights.values())


def test_the_controlnet_places_the_figure_where_the_edges_are_and_has_no_effect_at_scale_zero(pipeline: Any, small_models: Path) -> None:
    controlled = load_controlnet_pipeline(pipeline, small_models / "controlnets" / "canny")
    edges = [Image.fromarray(edge_map(rendered(_STAR)))] * 4
    prompts = ["a red star on a white background"] * 4
    off, on = (generate_images(controlled, prompts, _SEEDS, image=edges, controlnet_conditioning_scale=scale) for scale in (0.0, 1.0))
    assert not any(classify(image).place == "bottom right" for image in off)
    assert sum(classify(image).place == "bottom right" for image in on) >= 3
    assert np.array_equal(off, generate_images(pipeline, prompts, _SEEDS))
