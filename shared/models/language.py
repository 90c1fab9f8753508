"""A language model and its tokenizer from their transformers folder. Nothing here needs diffusers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from shared.models.load import load_network, load_tokenizer, quiet
from shared.models.prefetch import prefetched
from shared.weights.folders import weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class ChatModel:
    """A model that continues a text.

    Attributes:
        model: The network, frozen. Its own generation config holds sampling defaults that no caller asked for: set every field.
        tokenizer: Its tokenizer.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast

    @property
    def context_length(self) -> int:
        """How many tokens fit, prompt and answer together. A tokenizer's own limit is not it."""
        length: int = self.model.config.max_position_embeddings
        return length


def load_chat(folder: Path, device: torch.device, dtype: torch.dtype, *, name: str = "chat") -> ChatModel:
    """Loads a language model.

    Args:
        folder: A complete transformers folder.
        device: Where it goes.
        dtype: Its precision.
        name: What messages and log lines call it.

    Raises:
        SettingsError: The folder is damaged, incomplete or holds another kind of model.
    """
    with prefetched(weight_files(folder, half=False)):
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        quiet(logging)
        model = load_network(AutoModelForCausalLM, folder, name=name, device=device, dtype=dtype, trust_remote_code=False)
    tokenizer = load_tokenizer(AutoTokenizer, folder, name=f"{name} tokenizer", rows=model.config.vocab_size, needs=("eos",))
    return ChatModel(model, tokenizer)
