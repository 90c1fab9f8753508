"""Chat models of one layer with random weights, for any of four kinds of tokenizers and any chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from handlers.chat.engines.transformers.load import ChatModel
from tests.fuzzing.conversations.templates import Template
from tests.handlers.chat.tokenizer_fixtures import TOKENIZERS

CONTEXT = 768
_PADDING = 5  # rows of the embedding without a token, as published models have
_WEIGHTS = 0.5  # standard deviation; large enough for the next token to depend on the text

KINDS = tuple(TOKENIZERS)
"""The kinds of tokenizers."""


def tokenizer_for(kind: str, template: Template) -> Any:
    """Returns a tokenizer of a kind with the control tokens of a template."""
    tokenizer = TOKENIZERS[kind]()
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in template.added])
    tokenizer.add_special_tokens({"additional_special_tokens": list(template.special)})
    tokenizer.chat_template = template.text
    return tokenizer


def chat_model(kind: str, template: Template, *, seed: int = 0) -> ChatModel:
    """Returns a model. Its weights depend on the seed alone."""
    tokenizer = tokenizer_for(kind, template)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + _PADDING,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        initializer_range=_WEIGHTS,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
    ends = [token for token in (tokenizer.eos_token, template.ends) if token is not None]
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.convert_tokens_to_ids(ends))
    return ChatModel(model, tokenizer)


def vocabulary(model: ChatModel) -> Mapping[str, int]:
    """Returns the token ids of a model by token."""
    ids: Mapping[str, int] = model.tokenizer.get_vocab()
    return ids
