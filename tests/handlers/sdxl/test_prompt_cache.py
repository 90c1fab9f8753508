"""A repeated prompt is not encoded again, unless something else than its text has changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from handlers.sdxl.handler import load
from handlers.sdxl.prompts import embedding_cache
from handlers.sdxl.request import SdxlRequest
from shared.media.images import Pixels
from shared.settings import Settings
from tests.handlers.conftest import generate, image_outputs, sdxl


@pytest.fixture
def recipe(tiny_models: Path, tmp_path: Path) -> Any:
    return load(Settings(models_dir=tmp_path, sdxl_model=tiny_models / "sdxl", device="cpu"))


@contextmanager
def encodings(recipe: Any) -> Iterator[list[int]]:
    """The batch sizes of the second text encoder's calls."""
    calls: list[int] = []
    hook = recipe._pipeline.text_encoder_2.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    try:
        yield calls
    finally:
        hook.remove()


def image(recipe: Any, request: SdxlRequest) -> Pixels:
    (made,) = image_outputs(generate(recipe, request))
    return made.pixels


def test_a_repeated_prompt_is_not_encoded_and_gives_the_same_image_bit_for_bit(recipe: Any) -> None:
    with encodings(recipe) as calls:
        first, second = (image(recipe, sdxl("a red circle", negative="blurry")) for _ in range(2))
    assert calls == [1, 1], "the prompt and the negative prompt, of one chunk each"
    assert np.array_equal(first, second)


def test_of_two_prompts_with_the_same_negative_one_only_the_prompts_are_encoded(recipe: Any) -> None:
    image(recipe, sdxl("a red circle"))
    with encodings(recipe) as calls:
        image(recipe, sdxl("a blue square"))
    assert calls == [1]


def test_clip_skip_weights_and_a_longer_prompt_are_not_mistaken_for_the_cached_one(recipe: Any, tiny_models: Path, tmp_path: Path) -> None:
    fresh: Any = load(Settings(models_dir=tmp_path, sdxl_model=tiny_models / "sdxl", device="cpu"))
    long = "a red circle " * 40
    for prompt, clip_skip in (("a red circle", 0), ("a red circle", 1), (long, 0), ("a red circle", 0)):
        made = image(recipe, sdxl(prompt, clip_skip=clip_skip))
        fresh._embeddings = embedding_cache()
        assert np.array_equal(made, image(fresh, sdxl(prompt, clip_skip=clip_skip))), prompt


def test_a_textual_inversion_that_is_replaced_is_encoded_anew(recipe: Any, tmp_path: Path) -> None:
    request = sdxl("a marble circle", textual_inversions=["marble"])
    widths = [getattr(recipe._pipeline, name).config.hidden_size for name in ("text_encoder", "text_encoder_2")]
    images = []
    for value in (0.5, -2.0):
        tensors = {name: torch.full((1, width), value) for name, width in zip(("clip_l", "clip_g"), widths, strict=True)}
        (tmp_path / "textual_inversions").mkdir(exist_ok=True)
        file = tmp_path / "textual_inversions/marble.safetensors"
        file.unlink(missing_ok=True)
        save_file(tensors, file)
        with encodings(recipe) as calls:
            images += [image(recipe, request) for _ in range(2)]
        assert len(calls) == 2 if value == 0.5 else 1
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_a_lora_of_a_text_encoder_has_its_own_embeddings_for_each_scale(recipe: Any, tmp_path: Path) -> None:
    layer = recipe._pipeline.text_encoder_2.get_submodule("text_model.encoder.layers.0.mlp.fc1")
    inputs, outputs = layer.in_features, layer.out_features
    (tmp_path / "loras").mkdir()
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.randn(outputs, 4, generator=generator),
        "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.randn(4, inputs, generator=generator),
    }
    save_file(tensors, tmp_path / "loras/style.safetensors")
    scales = (0, 1.0, 0.5, 1.0, 0)
    images = [image(recipe, sdxl(loras=[{"name": "style", "scale": scale}] if scale else [])) for scale in scales]
    assert np.array_equal(images[0], images[4])
    assert np.array_equal(images[1], images[3])
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[1], images[2])
