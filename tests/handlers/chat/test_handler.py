"""A chat worker as its operator sets it up: whose models, how many, how much memory, and what is reported of an answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import MambaConfig, MambaForCausalLM

from handlers.chat.engines.transformers.memory import CacheDemand, fits, max_model_len, max_num_seqs
from handlers.chat.handler import load
from handlers.chat.recipe import ChatRecipe
from handlers.chat.request import ChatOperator, ChatRequest
from shared.settings import Settings, SettingsError
from tests.handlers.conftest import chat, generate, text


@pytest.fixture
def own_models(tiny_models: Path, tmp_path: Path) -> Path:
    """The operator's own folder: the instruct model, as a snapshot of a cache."""
    shutil.copytree(tiny_models / "qwen_base", tmp_path / "models" / "qwen_base")
    snapshot = tmp_path / "cache" / "snapshots" / ("0123456789" * 4)
    shutil.copytree(tiny_models / "qwen_instruct", snapshot)
    return snapshot


@pytest.fixture
def recipe(own_models: Path, tmp_path: Path) -> Iterator[ChatRecipe]:
    settings = Settings(
        models_dir=tmp_path / "models",
        qwen_instruct_model=own_models,
        chat_instruct_name="heron-chat",
        chat_base_name="heron-base",
        chat_resident="one",
        chat_cache_gb=0.001,
    )
    made = load(settings)
    yield made
    made.engine.close()


def test_custom_models_are_served_under_the_configured_names_with_their_own_prompt_formats(recipe: ChatRecipe) -> None:
    own = ChatOperator(models=("heron-chat", "heron-base"))
    raw = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
    said = {}
    for name in ("heron-chat", "heron-base"):
        request = ChatRequest.parse({**raw, "model": name}, job_id="j", operator=own)
        outputs = generate(recipe, request)
        assert recipe.summarize(request, outputs).top_level["model_info"] == {"model": name, "context_length": 511}
        said[name] = text(outputs)
    assert [output.metadata["model_used"] for output in said.values()] == list(said)
    assert said["heron-chat"].metadata["prompt_tokens"] != said["heron-base"].metadata["prompt_tokens"]


def test_the_revision_of_a_cache_snapshot_is_reported(recipe: ChatRecipe) -> None:
    revisions = {name: facts.revision for name, facts in recipe.engine.models.items()}
    assert revisions == {"heron-chat": "0123456789" * 4, "heron-base": None}
    own = ChatOperator(models=("heron-chat", "heron-base"))
    request = ChatRequest.parse({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}, job_id="j", operator=own)
    assert text(generate(recipe, request)).metadata["revision"] == "0123456789" * 4


def test_a_configured_cache_size_limits_context_length_and_concurrency(recipe: ChatRecipe) -> None:
    assert recipe.engine.concurrency == 1
    assert {facts.context_length for facts in recipe.engine.models.values()} == {511}


def test_reported_timings_and_token_counts_are_consistent(chat_recipe: ChatRecipe) -> None:
    facts = text(generate(chat_recipe, chat("hello", max_tokens=30))).metadata
    generation, first, rate = (float(str(facts[key])) for key in ("generation_time", "time_to_first_token", "tokens_per_second"))
    assert (facts["tokens_generated"], facts["finish_reason"]) == (30, "length")
    assert 0 < first < generation
    assert rate == pytest.approx(30 / generation, rel=0.05)


GB = 2**30
PER_TOKEN = 57_344
"""What a token takes in Qwen2.5-7B: 2 × 28 layers × 4 heads × 128 × 2 bytes."""


def left_for_rows(card: float, models: float) -> int:
    """Bytes for conversations: beside the models, what passes need, and an eighth for system prompts."""
    return int((card - models - 2 * GB) * 7 / 8)


def test_two_7b_models_on_48_gb_leave_memory_for_many_sequences() -> None:
    left = left_for_rows(48e9, 2 * 15.24e9)
    assert max_num_seqs(PER_TOKEN, 32768, left) == 56
    assert max_model_len(PER_TOKEN, left) >= 32768
    assert [fits([CacheDemand(PER_TOKEN, rows, 30_000)], left) for rows in (6, 7)] == [True, False]
    assert fits([CacheDemand(PER_TOKEN, 56, 4000)], left)


def test_one_7b_model_on_24_gb_leaves_memory_for_some_sequences() -> None:
    left = left_for_rows(24e9, 15.24e9)
    assert max_num_seqs(PER_TOKEN, 32768, left) == 23
    assert max_model_len(PER_TOKEN, left) >= 32768
    assert [fits([CacheDemand(PER_TOKEN, rows, 30_000)], left) for rows in (2, 3)] == [True, False]


def test_sequences_of_both_models_share_the_budget() -> None:
    one = CacheDemand(100, 3, 1023)
    assert one.bytes == 4 * 1024 * 100
    assert fits([one, one], 2 * one.bytes)
    assert not fits([one, one], 2 * one.bytes - 1)
    assert CacheDemand(100, 0, 0).bytes == 0


def test_a_model_without_a_chat_template_can_only_serve_as_a_base_model(own_models: Path, tmp_path: Path) -> None:
    config = own_models / "tokenizer_config.json"
    content = {key: value for key, value in json.loads(config.read_text()).items() if key != "chat_template"}
    config.write_text(json.dumps(content))
    (own_models / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(SettingsError, match="chat template"):
        load(Settings(models_dir=tmp_path / "nowhere", qwen_instruct_model=own_models))
    both = Settings(models_dir=tmp_path / "nowhere", qwen_instruct_model=tmp_path / "models" / "qwen_base", qwen_base_model=own_models)
    load(both).engine.close()


def test_a_model_without_a_plain_kv_cache_is_rejected_at_start_up(own_models: Path, tmp_path: Path) -> None:
    config = MambaConfig(vocab_size=480, hidden_size=32, num_hidden_layers=2, state_size=4)
    for old in own_models.glob("model*"):
        old.unlink()
    MambaForCausalLM(config).save_pretrained(own_models)
    with pytest.raises(SettingsError, match=r"cannot be (served|used)"):
        load(Settings(models_dir=tmp_path / "nowhere", qwen_instruct_model=own_models))
