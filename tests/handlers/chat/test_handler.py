"""Loading the chat handler as configured: custom models and names, memory limits, unsupported models, reported metadata."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import MambaConfig, MambaForCausalLM

from handlers.chat.handler import load
from handlers.chat.recipe import ChatRecipe
from handlers.chat.request import ChatRequest
from handlers.chat.short_form import ChatOperator
from shared.settings import Settings, SettingsError
from tests.handlers.conftest import chat, generate, text


@pytest.fixture
def custom_models(tiny_models: Path, tmp_path: Path) -> Path:
    """A folder with a custom instruct model, in the layout of a Hugging Face cache snapshot."""
    shutil.copytree(tiny_models / "qwen_base", tmp_path / "models" / "qwen_base")
    snapshot = tmp_path / "cache" / "snapshots" / ("0123456789" * 4)
    shutil.copytree(tiny_models / "qwen_instruct", snapshot)
    return snapshot


@pytest.fixture
def custom_settings(custom_models: Path, tmp_path: Path) -> Settings:
    return Settings(
        models_dir=tmp_path / "models",
        qwen_instruct_model=custom_models,
        chat_instruct_name="heron-chat",
        chat_base_name="heron-base",
        chat_resident="one",
        chat_cache_gb=0.001,
    )


@pytest.fixture
def recipe(custom_settings: Settings) -> Iterator[ChatRecipe]:
    recipe = load(custom_settings)
    yield recipe
    recipe.engine.close()


def test_custom_models_are_served_under_the_configured_names_with_their_own_prompt_formats(recipe: ChatRecipe) -> None:
    operator = ChatOperator(models=("heron-chat", "heron-base"))
    raw = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
    completions = {}
    for name in ("heron-chat", "heron-base"):
        request = ChatRequest.parse({**raw, "model": name}, job_id="j", operator=operator)
        outputs = generate(recipe, request)
        assert recipe.summarize(request, outputs).top_level["model_info"] == {"model": name, "context_length": 511}
        completions[name] = text(outputs)
    assert [completion.metadata["model_used"] for completion in completions.values()] == list(completions)
    assert completions["heron-chat"].metadata["prompt_tokens"] != completions["heron-base"].metadata["prompt_tokens"]


def test_the_revision_of_a_cache_snapshot_is_reported(recipe: ChatRecipe) -> None:
    revisions = {name: model.revision for name, model in recipe.engine.models.items()}
    assert revisions == {"heron-chat": "0123456789" * 4, "heron-base": None}
    operator = ChatOperator(models=("heron-chat", "heron-base"))
    request = ChatRequest.parse({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}, job_id="j", operator=operator)
    assert text(generate(recipe, request)).metadata["revision"] == "0123456789" * 4


def test_a_configured_cache_size_limits_context_length_and_concurrency(recipe: ChatRecipe) -> None:
    assert recipe.engine.max_concurrency == 1
    assert {model.context_length for model in recipe.engine.models.values()} == {511}


@pytest.mark.parametrize(("dtype", "context_length"), [("auto", 511), ("float32", 511), ("bfloat16", 1023), ("float16", 1023)])
def test_half_precision_is_a_setting_and_halves_the_cache(custom_settings: Settings, dtype: str, context_length: int) -> None:
    recipe = load(custom_settings.model_copy(update={"chat_dtype": dtype}))
    operator = ChatOperator(models=("heron-chat", "heron-base"))
    raw = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "min_tokens": 8}
    request = ChatRequest.parse(raw, job_id="j", operator=operator)
    assert text(generate(recipe, request)).metadata["tokens_generated"] == 8
    assert recipe.engine.models["heron-chat"].context_length == context_length
    recipe.engine.close()


def test_reported_timings_and_token_counts_are_consistent(chat_recipe: ChatRecipe) -> None:
    metadata = text(generate(chat_recipe, chat("hello", max_tokens=30))).metadata
    generation, first, rate = (float(str(metadata[key])) for key in ("generation_time", "time_to_first_token", "tokens_per_second"))
    assert (metadata["tokens_generated"], metadata["finish_reason"]) == (30, "length")
    assert 0 < first < generation
    assert rate == pytest.approx(30 / generation, rel=0.05)


def test_a_model_without_a_chat_template_can_only_serve_as_a_base_model(custom_models: Path, tmp_path: Path) -> None:
    config = custom_models / "tokenizer_config.json"
    content = {key: value for key, value in json.loads(config.read_text()).items() if key != "chat_template"}
    config.write_text(json.dumps(content))
    (custom_models / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(SettingsError, match="chat template"):
        load(Settings(models_dir=tmp_path / "nowhere", qwen_instruct_model=custom_models))
    both = Settings(models_dir=tmp_path / "nowhere", qwen_instruct_model=tmp_path / "models" / "qwen_base", qwen_base_model=custom_models)
    load(both).engine.close()


def test_a_model_without_a_plain_kv_cache_is_rejected_at_start_up(custom_models: Path, tmp_path: Path) -> None:
    config = MambaConfig(vocab_size=480, hidden_size=32, num_hidden_layers=2, state_size=4)
    for old in custom_models.glob("model*"):
        old.unlink()
    MambaForCausalLM(config).save_pretrained(custom_models)
    with pytest.raises(SettingsError, match=r"cannot be (served|used)"):
        load(Settings(models_dir=tmp_path / "nowhere", qwen_instruct_model=custom_models))
