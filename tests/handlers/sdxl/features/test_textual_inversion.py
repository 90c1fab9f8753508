"""Textual inversions, compared with diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from handlers.sdxl.features.textual_inversion import read_textual_inversion
from handlers.sdxl.handler import load
from handlers.sdxl.prompt_weights import WeightedText
from handlers.sdxl.prompts import PromptEmbeddings, encode_prompts, split_at_names, tokenize
from handlers.sdxl.recipe import SdxlRecipe
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.load import load_sdxl
from shared.errors import Cancelled, ModelUnavailable
from shared.jobs.recipe import Recipe
from shared.media.images import Pixels
from shared.settings import Settings
from shared.weights.errors import WeightsError
from tests.handlers.conftest import RecordedRun, generate, image_outputs, sdxl

Sdxl = Recipe[SdxlRequest]


def embeddings(count: int, seed: int = 0) -> dict[str, Tensor]:
    """Random embeddings with the widths of the tiny text encoders."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(count, width, generator=generator) for name, width in (("clip_l", 32), ("clip_g", 48))}


@pytest.fixture(scope="module")
def recipe(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Sdxl:
    addons = tmp_path_factory.mktemp("addons")
    (addons / "textual_inversions").mkdir()
    for name, count in (("ink", 1), ("old oil", 3)):
        save_file(embeddings(count, seed=count), addons / "textual_inversions" / f"{name}.safetensors")
    save_file({"emb_params": torch.zeros(1, 768)}, addons / "textual_inversions" / "foreign.safetensors")
    return load(Settings(sdxl_model=tiny_models / "sdxl", models_dir=addons, device="cpu"))


@pytest.fixture
def pipeline(tiny_models: Path) -> Any:
    return load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32)


def draw(recipe: Sdxl, prompt: str, *names: str, **more: Any) -> Pixels:
    return image_outputs(generate(recipe, sdxl(prompt, textual_inversions=list(names), **more)))[0].pixels


@torch.inference_mode()
def encoded(pipeline: Any, text: str, inversions: Any = None) -> PromptEmbeddings:
    return encode_prompts(pipeline, [WeightedText(text)], [], 0, inversions or {})


@pytest.mark.parametrize("count", [1, 3])
def test_a_name_is_encoded_as_its_embeddings_as_in_diffusers(pipeline: Any, tmp_path: Path, count: int) -> None:
    save_file(embeddings(count), tmp_path / "ink.safetensors")
    mine = encoded(pipeline, "a red ink circle", {"ink": read_textual_inversion(tmp_path / "ink.safetensors", pipeline)})
    for part, suffix in (("clip_l", ""), ("clip_g", "_2")):
        encoder, tokenizer = getattr(pipeline, f"text_encoder{suffix}"), getattr(pipeline, f"tokenizer{suffix}")
        tokenizer.split_special_tokens = False
        pipeline.load_textual_inversion(embeddings(count)[part], token="<ink>", text_encoder=encoder, tokenizer=tokenizer)
    with torch.inference_mode():
        theirs = pipeline.encode_prompt("a red <ink> circle", do_classifier_free_guidance=False)
    torch.testing.assert_close(mine.prompt, theirs[0], rtol=0, atol=1e-5)


def test_only_prompts_that_contain_the_name_change(recipe: Sdxl) -> None:
    plain = draw(recipe, "a red circle")
    assert np.array_equal(draw(recipe, "a red circle", "ink", "old oil"), plain)
    one, other = draw(recipe, "a red circle, ink", "ink"), draw(recipe, "a red circle, old oil", "old oil")
    assert not np.array_equal(one, draw(recipe, "a red circle, ink"))
    assert not np.array_equal(other, draw(recipe, "a red circle, old oil"))
    assert not np.array_equal(draw(recipe, "a red circle", "ink", negative_prompt="ink"), plain)


def test_textual_inversions_do_not_affect_later_jobs(recipe: Sdxl) -> None:
    assert isinstance(recipe, SdxlRecipe)
    pipeline = recipe._pipeline

    def state() -> list[Any]:
        encoders = (pipeline.text_encoder, pipeline.text_encoder_2)
        tables = [encoder.get_input_embeddings() for encoder in encoders]
        lengths = [len(tokenizer) for tokenizer in (pipeline.tokenizer, pipeline.tokenizer_2)]
        return [*lengths, *(id(table.weight) for table in tables), *(len(table._forward_hooks) for table in tables)]

    before, plain = state(), draw(recipe, "a red ink circle")
    draw(recipe, "a red ink circle", "ink")
    with pytest.raises(Cancelled):
        generate(recipe, sdxl("a red ink circle", textual_inversions=["ink"]), RecordedRun(stop_at=2))
    with pytest.raises(ModelUnavailable, match=r"Textual inversion 'foreign' cannot be used: it does not consist of clip_l and clip_g"):
        draw(recipe, "a red ink circle", "ink", "foreign")
    assert state() == before
    assert np.array_equal(draw(recipe, "a red ink circle"), plain)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a red ink circle", ["ink"]),
        ("a red <ink>circle", ["ink"]),
        ("INK and old oil, ink", ["ink", "old oil", "ink"]),
        ("inkwell, pink, link", []),
        ("old ink", ["old ink"]),
    ],
)
def test_names_match_whole_words_and_the_longest_wins(text: str, found: list[str]) -> None:
    names = {"ink": 1, "old ink": 2, "old oil": 3}
    pieces = list(split_at_names(text, names))
    assert [name for _, name in pieces if name] == found
    assert "".join(piece for piece, _ in pieces) == text


def test_each_embedding_takes_one_token_with_the_weight_of_its_text(pipeline: Any) -> None:
    (chunk,) = tokenize(pipeline.tokenizer, [WeightedText("a "), WeightedText("ink", 1.3)], {"ink": torch.zeros(3, 32)})
    own = [token for token in chunk if token.embedding is not None]
    assert [token.weight for token in own] == [1.3] * 3
    assert len(chunk) == pipeline.tokenizer.model_max_length


@pytest.mark.parametrize(
    "tensors",
    [
        {"clip_l": torch.zeros(1, 32)},
        {"clip_l": torch.zeros(1, 32), "clip_g": torch.zeros(1, 32)},
        {"clip_l": torch.zeros(1, 32), "clip_g": torch.zeros(2, 48)},
        {"clip_l": torch.zeros(1, 32), "clip_g": torch.full((1, 48), torch.nan)},
        {"clip_l": torch.zeros(0, 32), "clip_g": torch.zeros(0, 48)},
    ],
    ids=["only one", "wrong width", "not as many", "not finite", "none"],
)
def test_a_textual_inversion_for_another_model_is_refused(pipeline: Any, tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, tmp_path / "ink.safetensors")
    with pytest.raises(WeightsError, match=r"^The weights of textual_inversions/ink cannot be used: "):
        read_textual_inversion(tmp_path / "ink.safetensors", pipeline)
