"""Context windows of models whose rotary embedding depends on the sequence length: completions stay independent of the batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.chat.engines.transformers.load import ChatModel, load_chat
from shared.errors import ContextLengthExceeded
from tests.handlers.chat.engine_fixtures import CPU, ask, complete, complete_concurrently, engine_of, generate_with_transformers, texts

TRAINED = 256
"""The original training length of these models, in tokens."""
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0],
    "original_max_position_embeddings": TRAINED,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 8.0}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 8.0, "original_max_position_embeddings": TRAINED}
SHORT = ask("a heron", max_tokens=60)
LONG = [ask("hello " * 25, max_tokens=145), ask("snow falls " * 12, max_tokens=70)]


def scaled(tiny_models: Path, folder: Path, rope: dict[str, Any], positions: int) -> ChatModel:
    """Loads the small instruct model with another rotary embedding."""
    shutil.copytree(tiny_models / "qwen_instruct", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"rope_parameters": rope, "max_position_embeddings": positions}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return load_chat(folder, CPU, torch.float32)


@pytest.fixture(params=["longrope", "dynamic"])
def model(request: pytest.FixtureRequest, tiny_models: Path, tmp_path: Path) -> ChatModel:
    rope, positions = {"longrope": (LONGROPE, 8 * TRAINED), "dynamic": (DYNAMIC, TRAINED)}[request.param]
    return scaled(tiny_models, tmp_path / "model", rope, positions)


def logits(model: ChatModel, *lengths: int) -> torch.Tensor:
    """Returns the logits of the first row of a batch of these lengths, computed by transformers alone."""
    ids = torch.arange(max(lengths)).expand(len(lengths), -1) % 100 + 5
    positions = torch.stack([torch.arange(max(lengths)).clamp(max=length - 1) for length in lengths])
    with torch.inference_mode():
        logits: torch.Tensor = model.model(input_ids=ids, position_ids=positions, use_cache=False).logits
    return logits[0, : lengths[0]]


def test_in_transformers_the_longest_row_changes_the_rotary_embedding_of_all(model: ChatModel) -> None:
    """The reason for the limit. If transformers changes this, longer contexts become possible."""
    alone = logits(model, TRAINED)
    assert torch.allclose(alone, logits(model, TRAINED, TRAINED)[:TRAINED], atol=1e-4)
    assert not torch.allclose(alone, logits(model, TRAINED, TRAINED + 8), atol=1e-2)


def test_the_context_window_ends_where_the_rotary_embedding_would_change(model: ChatModel) -> None:
    assert model.context_length == TRAINED


def test_completions_up_to_the_context_window_match_transformers_alone_and_batched(model: ChatModel) -> None:
    requests = [SHORT, *LONG]
    expected = [generate_with_transformers(model, request).rstrip("�") for request in requests]
    with engine_of(model) as engine:
        ends = [complete(engine, request) for request in requests]
        assert TRAINED - 10 < max(end.prompt_tokens + end.completion_tokens for end in ends) <= TRAINED
        assert [text.rstrip("�") for text in texts(complete_concurrently(engine, requests))] == expected
        with pytest.raises(ContextLengthExceeded, match=str(TRAINED)):
            engine.check(ask("hello", max_tokens=TRAINED))


def test_a_constant_rotary_scaling_keeps_the_whole_context_window(tiny_models: Path, tmp_path: Path) -> None:
    assert scaled(tiny_models, tmp_path / "model", YARN, 8 * TRAINED).context_length == 8 * TRAINED
