"""What is attached to the small SDXL: it loads through the public loaders of diffusers, and does to pictures what it was trained for."""

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
from small_models.training.addons.evaluation import draw_directly, load_control, load_ip_adapter, load_pipeline
from small_models.training.addons.stripes import plain, striped, stripe_contrast
from small_models.training.sdxl.classifier import classify
from small_models.training.shapes import Figure, Scene, render

_SQUARE = Scene((Figure("square", "red", "top left", "large"),), "white", False)
_STAR = Scene((Figure("star", "red", "bottom right", "large"),), "white", False)


def rendered(scene: Scene) -> Any:
    return render(scene, np.random.default_rng(0))


@pytest.fixture(scope="module")
def pipeline(small_models: Path) -> Any:
    """The small SDXL, to which tests attach something and from which they take it away again."""
    return load_pipeline(small_models / "sdxl")


def test_the_edges_of_a_square_are_its_border() -> None:
    picture = np.full((64, 64, 3), 245, np.uint8)
    picture[10:40, 20:50] = (225, 35, 35)
    lines = edge_map(picture)[..., 0] > 0
    # A line is on the last pixel before the step.
    expected = np.zeros((64, 64), bool)
    expected[9:40, [19, 49]] = True
    expected[[9, 39], 19:50] = True
    assert (lines != expected).sum() <= 4  # corners may be cut
    assert lines.sum() > 110


def test_a_wide_edge_covers_a_narrow_one() -> None:
    narrow, wide = (edge_map(rendered(_STAR), width=width)[..., 0] > 0 for width in (1, 2))
    assert (wide | ~narrow).all()
    assert wide.sum() > 1.5 * narrow.sum()


def test_a_flat_picture_and_the_stripes_of_a_background_have_no_edges() -> None:
    assert not edge_map(np.full((64, 64, 3), 99, np.uint8)).any()
    alone = rendered(striped(_SQUARE))[:, 48:]
    assert not edge_map(alone).any()
    assert edge_map(alone, threshold=20).any()


def test_stripedness_is_one_for_rendered_stripes_and_nothing_for_a_plain_background() -> None:
    assert stripe_contrast(rendered(striped(_SQUARE)), _SQUARE) == pytest.approx(1, abs=0.05)
    assert stripe_contrast(rendered(plain(_SQUARE)), _SQUARE) == pytest.approx(0, abs=0.05)


def test_the_lora_puts_stripes_behind_figures_and_leaves_no_trace_when_it_is_unloaded(pipeline: Any, small_models: Path) -> None:
    prompts, seeds = ["a red square at the top left"] * 4, [0, 1, 2, 3]
    before = draw_directly(pipeline, prompts, seeds)
    pipeline.load_lora_weights(str(small_models / "loras"), weight_name=lora.NAME, adapter_name="stripes")
    assert pipeline.get_list_adapters() == {"unet": ["stripes"]}
    with_it = draw_directly(pipeline, prompts, seeds)
    pipeline.unload_lora_weights()
    assert np.array_equal(draw_directly(pipeline, prompts, seeds), before)
    stripes = [[stripe_contrast(picture, _SQUARE) for picture in pictures] for pictures in (before, with_it)]
    assert np.mean(stripes[0]) < 0.1
    assert np.mean(stripes[1]) > 0.3


def test_an_empty_prompt_with_a_picture_of_a_circle_on_the_left_gives_a_circle_on_the_left(pipeline: Any, small_models: Path) -> None:
    load_ip_adapter(pipeline, small_models / "ip_adapters")
    reference = rendered(Scene((Figure("circle", "red", "left", "large"),), "blue", False))
    readings = [classify(picture) for picture in draw_directly(pipeline, [""] * 4, [0, 1, 2, 3], ip_adapter_image=Image.fromarray(reference))]
    pipeline.unload_ip_adapter()
    assert sum(reading.shape == "circle" for reading in readings) >= 3
    assert sum(reading.place == "left" for reading in readings) >= 3


def test_the_image_encoder_and_the_adapter_load_with_nothing_missing(small_models: Path) -> None:
    from transformers import CLIPVisionModelWithProjection

    folder = small_models / "ip_adapters" / "image_encoder"
    loaded: Any = CLIPVisionModelWithProjection.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    encoder, report = loaded
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert encoder.config.projection_dim == 64
    weights = load_file(small_models / "ip_adapters" / ip_adapter.NAME)
    assert {name.split(".")[0] for name in weights} == {"image_proj", "ip_adapter"}
    assert all(weight.dtype == torch.float16 for weight in weights.values())


def test_a_controlnet_puts_the_figure_where_its_edges_are(pipeline: Any, small_models: Path) -> None:
    controlled = load_control(pipeline, small_models / "controlnets" / "canny")
    hint = Image.fromarray(edge_map(rendered(_STAR)))
    prompts, seeds = ["a red star on a white background"] * 4, [0, 1, 2, 3]
    off, on = (draw_directly(controlled, prompts, seeds, image=[hint] * 4, controlnet_conditioning_scale=scale) for scale in (0.0, 1.0))
    assert not any(classify(picture).place == "bottom right" for picture in off)
    assert sum(classify(picture).place == "bottom right" for picture in on) >= 3
    assert np.array_equal(off, draw_directly(pipeline, prompts, seeds))
