"""Conversations as clients of other servers send them: followed as there, or refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import regex
import torch

from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.handler import HANDLER
from shared.settings import Settings
from tests.handlers.chat.engine_fixtures import with_transformers_layers
from tests.handlers.reported.jobs import JobRunner, reported

# Templates

NO_SYSTEM_ROLE = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
MERGING = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim + '\n\n' %}{% set messages = messages[1:] %}"
    "{% else %}{% set system = '' %}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ (system if loop.first else '') + m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)


@contextmanager
def jobs_with_template(tiny_models: Path, folder: Path, template: str) -> Iterator[JobRunner]:
    """Jobs of a worker whose model has another chat template."""
    model = folder / "models" / "qwen_instruct"
    model.mkdir(parents=True)
    for file in (tiny_models / "qwen_instruct").iterdir():
        (model / file.name).symlink_to(file)
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").unlink()
    (model / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    settings = Settings(models_dir=folder / "models", device="cpu")
    recipe = HANDLER.load(settings)
    try:
        yield JobRunner(HANDLER, recipe, folder / "out", settings)
    finally:
        recipe.engine.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("template", "job", "sentence"),
    [
        (NO_SYSTEM_ROLE, reported("template_system_role.json")["input"], "System role not supported"),
        (ALTERNATING, reported("template_system_role.json")["input"], "Conversation roles must alternate"),
        (ALTERNATING, reported("template_two_user_turns.json"), "Conversation roles must alternate"),
    ],
    ids=["a system prompt", "a system prompt before alternating turns", "two turns of the user"],
)
def test_what_a_template_refuses_is_invalid_with_the_templates_sentence(
    tiny_models: Path, tmp_path: Path, template: str, job: Mapping[str, Any], sentence: str
) -> None:
    with jobs_with_template(tiny_models, tmp_path, template) as jobs:
        code, message = jobs.run(job).error
        assert code == "VALIDATION_ERROR"
        assert sentence in message
        assert jobs.run({"prompt": "hi", "max_tokens": 4, "temperature": 0}).response["status"] == "completed"


def test_a_template_that_trims_and_merges_the_system_prompt_is_followed(tiny_models: Path, tmp_path: Path) -> None:
    with jobs_with_template(tiny_models, tmp_path, MERGING) as jobs:
        apart, merged = (
            jobs.run({"messages": messages, "max_tokens": 12, "temperature": 0})
            for messages in (
                [{"role": "system", "content": "You are nice.\n"}, {"role": "user", "content": "  hi  "}],
                [{"role": "user", "content": "You are nice.\n\nhi"}],
            )
        )
    assert apart.text == merged.text
    assert apart.response["usage"]["prompt_tokens"] == merged.response["usage"]["prompt_tokens"]


# The context window

WINDOW = 2048


def filling(model: ChatModel, left: int) -> list[dict[str, str]]:
    """A conversation that leaves at most so many tokens of the window, and nearly as many."""

    def length(words: int) -> int:
        messages = [{"role": "user", "content": "word " * words}]
        encoded: Any = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        return len(encoded["input_ids"])

    per_word = length(2) - length(1)
    words = (WINDOW - left - length(1)) // per_word + 2
    while length(words) > WINDOW - left:
        words -= 1
    return [{"role": "user", "content": "word " * words}]


@pytest.mark.parametrize("left", [8, 60, 261, 511])
@pytest.mark.parametrize("fields", [{}, {"max_tokens": None}, {"type": "chat_conversation"}], ids=["absent", "null", "another type"])
def test_an_absent_max_tokens_is_answered_with_what_is_left(
    chat_jobs: JobRunner, instruct: ChatModel, left: int, fields: Mapping[str, Any]
) -> None:
    result = chat_jobs.run({"messages": filling(instruct, left), "temperature": 0, **fields})
    usage = result.response["usage"]
    assert result.response["status"] == "completed"
    assert usage["prompt_tokens"] + usage["completion_tokens"] <= WINDOW
    finish_reason = result.response["assets"][0]["metadata"]["finish_reason"]
    assert finish_reason == "stop" or usage["prompt_tokens"] + usage["completion_tokens"] == WINDOW


@pytest.mark.parametrize("left", [8, 511])
def test_a_max_tokens_that_does_not_fit_is_refused_with_both_lengths(chat_jobs: JobRunner, instruct: ChatModel, left: int) -> None:
    code, message = chat_jobs.run({"messages": filling(instruct, left), "max_tokens": 512}).error
    assert code == "CONTEXT_LENGTH_EXCEEDED"
    assert "512" in message
    assert str(WINDOW) in message


def with_window_of_8192(models: Path, tiny_models: Path, folder: Path) -> Path:
    """A tiny model with the tokenizer and the context window of SmolLM2, on which the report was made."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model = folder / "qwen_instruct"
    shutil.copytree(models / "qwen_instruct", model, ignore=shutil.ignore_patterns("*.safetensors*", "config.json", "made.json"))
    config = AutoConfig.from_pretrained(tiny_models / "qwen_instruct", vocab_size=49_152, max_position_embeddings=8192)
    config.eos_token_id = AutoConfig.from_pretrained(models / "qwen_instruct").eos_token_id
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(model)
    return folder


@pytest.mark.slow
def test_the_reported_conversation_of_7931_tokens_is_answered(models: Path, tiny_models: Path, tmp_path: Path) -> None:
    settings = Settings(models_dir=with_window_of_8192(models, tiny_models, tmp_path / "models"), device="cpu")
    recipe = HANDLER.load(settings)
    try:
        result = JobRunner(HANDLER, recipe, tmp_path, settings).run(reported("context_without_max_tokens.json"))
    finally:
        recipe.engine.close()  # type: ignore[attr-defined]
    assert result.response["status"] == "completed", result.response["error_message"]
    assert result.response["usage"]["prompt_tokens"] == 7931
    assert 0 < result.response["usage"]["completion_tokens"] <= 8192 - 7931


# Constraints


def test_the_reported_choice_is_followed(chat_jobs: JobRunner) -> None:
    assert chat_jobs.run(reported("guided_choice_ignored.json")).text in ("yes", "no")


CONSTRAINTS: Mapping[str, tuple[Mapping[str, Any], Callable[[str], object]]] = {
    "choice": ({"guided_choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
    "choice of phrases": ({"guided_choice": ["out of stock", "on its way…"]}, lambda text: text in ("out of stock", "on its way…")),
    "structured choice": ({"structured_outputs": {"choice": ["yes", "no"]}}, lambda text: text in ("yes", "no")),
    "expression": ({"guided_regex": r"\d{3}-\d{2}"}, lambda text: regex.fullmatch(r"\d{3}-\d{2}", text)),
    "structured expression": ({"structured_outputs": {"regex": "[ab]{4}"}}, lambda text: regex.fullmatch("[ab]{4}", text)),
    "JSON": ({"guided_json": {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}}, json.loads),
    "JSON as a string": ({"guided_json": '{"enum": ["a", "b"]}'}, lambda text: json.loads(text) in ("a", "b")),
    "structured JSON": ({"structured_outputs": {"json": {"enum": [1, 2]}}}, lambda text: json.loads(text) in (1, 2)),
    "any JSON object": ({"structured_outputs": {"json_object": True}, "max_tokens": 200}, lambda text: json.loads(text) is not None),
}
FINITE = ("choice", "choice of phrases", "structured choice", "expression", "structured expression", "JSON as a string", "structured JSON")
"""Constraints that 24 tokens satisfy."""


@pytest.mark.parametrize("form", ["contract", "OpenAI"])
@pytest.mark.parametrize("temperature", [0, 1.5])
@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_constraints_of_vllms_names_are_followed_in_both_forms(chat_jobs: JobRunner, kind: str, temperature: float, form: str) -> None:
    fields, fits = CONSTRAINTS[kind]
    body = {"messages": [{"role": "user", "content": "Say hi."}], "temperature": temperature, "max_tokens": 24, "seed": 1, **fields}
    if form == "contract":
        result = chat_jobs.run(body)
        text, finish_reason = result.text, result.response["assets"][0]["metadata"]["finish_reason"]
    else:
        route = {"openai_route": "/v1/chat/completions", "openai_input": {"model": "qwen_instruct", **body}}
        (choice,) = chat_jobs.run(route).response["choices"]
        text, finish_reason = choice["message"]["content"], choice["finish_reason"]
    assert finish_reason == "length" or fits(text)
    assert finish_reason == "stop" or kind not in FINITE


# A final message of the assistant


def continuation(model: ChatModel, messages: list[dict[str, str]], count: int) -> str:
    """What transformers continues the final message with, greedily."""
    encoded: Any = model.tokenizer.apply_chat_template(messages, continue_final_message=True, return_dict=True, return_tensors="pt")
    prompt = encoded["input_ids"]
    generate: Any = with_transformers_layers(model).model.generate
    padding = list(range(len(model.tokenizer), model.model.config.vocab_size)) or None
    done = generate(
        prompt, max_new_tokens=count, do_sample=False, repetition_penalty=1.0, temperature=None, top_p=None, top_k=None,
        suppress_tokens=padding,
    )  # fmt: skip
    return str(model.tokenizer.decode(done[0, prompt.shape[1] :], skip_special_tokens=True))


@pytest.mark.parametrize("prefix", ["The capital of France is P", "The capital", "a ", "{"])
def test_a_final_message_is_continued_as_transformers_continues_it(chat_jobs: JobRunner, instruct: ChatModel, prefix: str) -> None:
    job = reported("prefill_trailing_assistant.json")
    messages = [job["messages"][0], {"role": "assistant", "content": prefix}]
    with torch.no_grad():
        expected = continuation(instruct, messages, job["max_tokens"])
    result = chat_jobs.run(job | {"messages": messages, "continue_final_message": True})
    assert result.text.rstrip("�") == expected.rstrip("�")


@pytest.mark.parametrize("messages", [[{"role": "user", "content": "hi"}], [{"role": "user", "content": "hi"}] * 2])
def test_without_a_final_message_of_the_assistant_nothing_can_be_continued(chat_jobs: JobRunner, messages: list[dict[str, str]]) -> None:
    code, message = chat_jobs.run({"messages": messages, "continue_final_message": True}).error
    assert code == "VALIDATION_ERROR"
    assert "continue_final_message" in message
