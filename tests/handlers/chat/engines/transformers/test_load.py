"""Loading chat models from transformers folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.chat.engines.transformers.load import ChatModel, load_chat
from shared.weights.errors import WeightsError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def chat(tiny_models: Path) -> ChatModel:
    return load_chat(tiny_models / "qwen_instruct", CPU, torch.float32)


def next_token(chat: ChatModel, text: str) -> int:
    tokens: Any = chat.tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        return int(chat.model(**tokens).logits[0, -1].argmax())


def test_the_next_token_depends_on_the_text(chat: ChatModel) -> None:
    texts = ("Hello", "a photo of a cat", "One, two, three", "The capital of France is")
    assert len({next_token(chat, text) for text in texts}) > 1
    assert next_token(chat, "Hello") == next_token(chat, "Hello")


def test_instruct_and_base_are_different_models(chat: ChatModel, tiny_models: Path) -> None:
    base = load_chat(tiny_models / "qwen_base", CPU, torch.float32)
    embeddings: list[Any] = [model.model.get_input_embeddings() for model in (base, chat)]
    assert not torch.equal(embeddings[0].weight, embeddings[1].weight)
    assert (base.tokenizer.eos_token, chat.tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")


def test_the_context_length_is_read_from_the_model_config(chat: ChatModel) -> None:
    assert chat.context_length == 2048


def test_remote_code_in_the_folder_is_not_executed(tiny_models: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_models / "qwen_base", tmp_path / "model"))
    ran = tmp_path / "ran"
    (folder / "theirs.py").write_text(f"open({str(ran)!r}, 'w')\n", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(WeightsError, match="The weights of chat cannot be used"):
        load_chat(folder, CPU, torch.float32)
    assert not ran.exists()


def test_a_diffusion_model_is_rejected(tiny_models: Path) -> None:
    with pytest.raises(WeightsError, match="The weights of helper cannot be used"):
        load_chat(tiny_models / "sdxl", CPU, torch.float32, name="helper")
