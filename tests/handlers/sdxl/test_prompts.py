"""Prompt encoding: long prompts, and weights with `compel_enabled`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from handlers.sdxl.prompt_weights import WeightedText, parse_prompt_weights
from handlers.sdxl.prompts import PromptEmbeddings, encode_prompts, prompt_warnings, split_at_names, tokenize
from handlers.sdxl.request import SdxlRequest
from handlers.sdxl.weights.load import load_sdxl
from shared.errors import ValidationError
from shared.jobs.recipe import Recipe
from shared.media.images import Pixels
from small_models.training.sdxl.generation import load_recipe
from tests.handlers.conftest import generate, image_outputs

Sdxl = Recipe[SdxlRequest]


@pytest.fixture(scope="module")
def pipeline(tiny_models: Path) -> Any:
    return load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32)


def request(prompt: str, *, compel: bool = True, config: dict[str, Any] | None = None, **fields: Any) -> SdxlRequest:
    raw = {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": prompt, "compel_enabled": compel, **fields}
    return SdxlRequest.parse(raw | {"config": {"resolution": "64x64", "steps": 10, "seed": 7} | (config or {})}, job_id="j")


def contents(tokenizer: Any, texts: Sequence[WeightedText], embeddings: Mapping[str, Tensor] | None = None) -> list[list[int]]:
    """The token ids of each chunk between its start and its end."""
    chunks = [[token.id for token in chunk] for chunk in tokenize(tokenizer, texts, embeddings or {})]
    assert {(len(chunk), chunk[0]) for chunk in chunks} == {(tokenizer.model_max_length, tokenizer.bos_token_id)}
    return [chunk[1 : chunk.index(tokenizer.eos_token_id)] for chunk in chunks]


def generate_image(recipe: Sdxl, request: SdxlRequest) -> list[Pixels]:
    return [image.pixels for image in image_outputs(generate(recipe, request))]


@torch.inference_mode()
def encoded(pipeline: Any, prompt: str, negative: str = "") -> PromptEmbeddings:
    return encode_prompts(pipeline, parse_prompt_weights(prompt), parse_prompt_weights(negative), 0)


def test_a_weight_of_one_changes_nothing_bit_for_bit(sdxl_recipe: Sdxl) -> None:
    plain = generate_image(sdxl_recipe, request("a red circle", compel=False))
    for prompt in ("a red circle", "a (red:1.0) circle", "(a (red:1) circle:1)"):
        assert np.array_equal(generate_image(sdxl_recipe, request(prompt)), plain)


def test_brackets_are_text_unless_compel_is_enabled(sdxl_recipe: Sdxl) -> None:
    typed, meant = (generate_image(sdxl_recipe, request("a (red:1.5) circle", compel=compel)) for compel in (False, True))
    assert not np.array_equal(typed, meant)
    assert np.array_equal(typed, generate_image(sdxl_recipe, request(r"a \(red:1.5\) circle")))


@pytest.mark.parametrize("prompt", ["a (red:1.5) circle", "a (red) circle", "a [red] circle"])
def test_a_weight_changes_the_image(sdxl_recipe: Sdxl, prompt: str) -> None:
    assert not np.array_equal(generate_image(sdxl_recipe, request(prompt)), generate_image(sdxl_recipe, request("a red circle")))


def test_weights_apply_to_negative_prompts_and_to_every_image_of_a_batch(sdxl_recipe: Sdxl) -> None:
    plain, weighted = (
        generate_image(sdxl_recipe, request("a red circle", negative_prompt=negative, config={"num_images": 3}))
        for negative in ("blue", "(blue:3)")
    )
    assert [np.array_equal(one, other) for one, other in zip(plain, weighted, strict=True)] == [False] * 3


def test_weights_scale_hidden_states_and_each_chunk_keeps_its_mean(pipeline: Any) -> None:
    plain, weighted = encoded(pipeline, "a red circle"), encoded(pipeline, "a (red:1.5) circle")
    width = pipeline.text_encoder.config.hidden_size
    for part in (slice(None, width), slice(width, None)):
        before, after = plain.prompt[0, :, part], weighted.prompt[0, :, part]
        ratio = after / before
        tokens = [len(pipeline.tokenizer(text, add_special_tokens=False).input_ids) for text in ("a", "red")]
        weights = torch.ones(len(ratio))
        weights[1 + tokens[0] : 1 + sum(tokens)] = 1.5
        torch.testing.assert_close(ratio / ratio[:1], weights[:, None].expand_as(ratio), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(after.mean(), before.mean(), rtol=1e-3, atol=1e-5)


def test_the_pooled_embedding_is_that_of_the_unweighted_text(pipeline: Any) -> None:
    assert torch.equal(encoded(pipeline, "a red circle").pooled, encoded(pipeline, "a (red:1.5) circle").pooled)


def test_the_image_shows_words_more_clearly_the_higher_their_weight(small_models: Path) -> None:
    recipe = load_recipe(small_models / "sdxl")

    def redness(weight: float) -> float:
        text = f"(a red circle:{weight}), a blue circle"
        drawn = [generate_image(recipe, request(text, config={"steps": 12, "seed": seed, "guidance_scale": 2.0})) for seed in (0, 1)]
        centre = np.array(drawn)[:, 0, 28:36, 28:36].astype(float)
        return float((centre[..., 0] - centre[..., 1:].max(axis=-1)).mean())

    assert redness(0.3) < redness(0.7) < redness(1.3)


LONG = ", ".join(f"red circle {index} 🙂" for index in range(80))


@pytest.mark.parametrize(
    ("fields", "config"),
    [
        ({}, {}),
        ({"compel_weights": "(red circle 3:1.3), (gold:0.8), (gold:0.8)"}, {}),
        ({"negative_prompt": "(blurry:1.2), bad 🙁"}, {}),
        ({"negative_prompt": LONG, "compel": False}, {"num_images": 3}),
    ],
    ids=["weights", "with duplicates", "negative", "long negative, batch, plain"],
)
def test_every_token_of_a_prompt_of_1300_characters_is_encoded(
    sdxl_recipe: Sdxl, pipeline: Any, fields: dict[str, Any], config: dict[str, Any]
) -> None:
    weighted_request = request(LONG, config=config, **fields)
    assert len(weighted_request.prompt) >= 1300
    for tokenizer, texts in product(
        (pipeline.tokenizer, pipeline.tokenizer_2), (weighted_request.weighted_prompt, weighted_request.weighted_negative_prompt)
    ):
        text = "".join(text.text for text in texts)
        expected = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        found = [id_ for ids in contents(tokenizer, texts) for id_ in ids]
        assert found == expected
    assert len(generate_image(sdxl_recipe, weighted_request)) == weighted_request.num_images


def test_compel_weights_are_appended_and_repetitions_are_kept(sdxl_recipe: Sdxl) -> None:
    drawn = [
        generate_image(sdxl_recipe, request("a red circle", compel_weights=weights))
        for weights in (None, "(gold:1.3)", "(gold:1.3), (gold:1.3)")
    ]
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[1], drawn[2])
    assert np.array_equal(drawn[1], generate_image(sdxl_recipe, request("a red circle, (gold:1.3)")))


def test_a_warning_names_compel_weights_that_are_not_used() -> None:
    weighted_request = request("a red circle", compel=False, compel_weights="(gold:1.3")
    assert weighted_request.warnings == ("`compel_weights` was ignored, because `compel_enabled` is false",)
    assert weighted_request.weighted_prompt == (WeightedText("a red circle"),)


def test_a_syntax_error_is_reported_with_its_position_and_without_the_prompt() -> None:
    with pytest.raises(ValidationError) as caught:
        request("a secret (red circle", negative_prompt="blue)", compel_weights="(gold:1,3)")
    sent = {problem.field: problem.sent for problem in caught.value.problems}
    assert sent == {
        "prompt": 'an unclosed "(" at character 10',
        "negative_prompt": 'an unmatched ")" at character 5',
        "compel_weights": "a weight that is not a number at character 6",
    }
    assert "secret" not in caught.value.message


def test_the_payload_reports_whether_weights_were_parsed(sdxl_recipe: Sdxl) -> None:
    reported = [sdxl_recipe.summarize(request("a", compel=compel), []).metadata["compel_enhancement"] for compel in (False, True)]
    assert reported == [False, True]


@pytest.mark.parametrize("filler", ["a", "red,", "it's"])
@pytest.mark.parametrize("count", range(66, 78))
def test_chunks_end_between_words(pipeline: Any, filler: str, count: int) -> None:
    tokenizer = pipeline.tokenizer
    text = f"{filler} " * count + "extraordinarily-well-known unquestionably"
    words = [tokenizer(word, add_special_tokens=False).input_ids for word in text.split()]
    ends = set(np.cumsum([len(ids) for ids in words]))
    found = contents(tokenizer, [WeightedText(text)])
    assert len(found) > 1
    assert [id_ for ids in found for id_ in ids] == [id_ for ids in words for id_ in ids]
    assert set(np.cumsum([len(ids) for ids in found])) <= ends


@pytest.mark.parametrize("count", range(68, 76))
def test_chunks_end_neither_inside_a_word_of_two_weights_nor_inside_an_embedding(pipeline: Any, count: int) -> None:
    texts = [WeightedText("a " * count + "extra"), WeightedText("ordinary", 1.3), WeightedText(" b")]
    first = contents(pipeline.tokenizer, texts)[0]
    word = [id_ for text in ("extra", "ordinary") for id_ in pipeline.tokenizer(text, add_special_tokens=False).input_ids]
    assert first[count:] in ([], word, word + pipeline.tokenizer("b", add_special_tokens=False).input_ids)
    chunks = tokenize(pipeline.tokenizer, [WeightedText("a " * count + "ink b")], {"ink": torch.zeros(6, 32)})
    assert {sum(token.embedding is not None for token in chunk) for chunk in chunks} in ({6}, {0, 6})


def test_text_without_spaces_fills_whole_chunks(pipeline: Any) -> None:
    found = contents(pipeline.tokenizer, [WeightedText("red,blue" * 100)])
    assert all(len(ids) > 60 for ids in found[:-1])


@pytest.mark.parametrize("text", ["ink", "<ink>", "embedding:ink", "EMBEDDING:Ink", "a,embedding:ink."])
def test_an_embedding_is_named_by_its_word_in_brackets_or_after_a_prefix(text: str) -> None:
    pieces = list(split_at_names(text, {"ink": 1}))
    assert [name for _, name in pieces if name] == ["ink"]
    assert "embedding" not in "".join(piece for piece, name in pieces if not name).lower()


@pytest.mark.parametrize(
    ("fields", "config", "warning"),
    [
        ({"negative_prompt": "blurry"}, {"guidance_scale": 1}, "`negative_prompt` has no effect, because `config.guidance_scale` is 1"),
        ({}, {"textual_inversions": ["ink"]}, "'ink' has no effect, because no prompt contains its name"),
        ({"negative_prompt": "blurry"}, {"guidance_scale": 1.5}, None),
        ({"negative_prompt": ""}, {"guidance_scale": 1}, None),
        ({"negative_prompt": "embedding:ink"}, {"textual_inversions": ["ink"]}, None),
        ({"compel_weights": "(ink:1.3)"}, {"textual_inversions": ["ink"]}, None),
        ({"negative_prompt": "embedding:oil, (Embedding:ink:1.2)"}, {}, "2 of the `embedding:` in the prompts are read as text"),
        ({"negative_prompt": "embedding:oil, embedding:ink"}, {"textual_inversions": ["ink"]}, "1 of the `embedding:` in the prompts"),
        ({"negative_prompt": "an embedding: text"}, {}, None),
    ],
)
def test_what_has_no_effect_on_the_prompts_is_a_warning(fields: dict[str, Any], config: dict[str, Any], warning: str | None) -> None:
    found = prompt_warnings(request("a fox", config=config, **fields))
    assert found == [] if warning is None else warning in found[0]
