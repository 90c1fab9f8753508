"""Loads a causal language model and its tokenizer from a transformers folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from handlers.chat.engines.transformers.fused_layers import fuse
from shared.models.device import choose_dtype
from shared.models.load import load_network, silence
from shared.models.prefetch import prefetched
from shared.models.tokenizers import load_tokenizer
from shared.weights.folders import weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class ChatModel:
    """A causal language model with its tokenizer.

    Attributes:
        model: The network, frozen. The sampling defaults in its generation config are not used.
        tokenizer: Its tokenizer.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast

    @property
    def context_length(self) -> int:
        """The context window in tokens, prompt and completion together. Independent of the tokenizer's `model_max_length`.

        With sliding-window attention it is the window, within which attention is full. With a rotary embedding that depends on the
        sequence length it is the length up to which the embedding is constant: beyond that, the longest sequence of a batch would change
        the results of the others, and cached keys would no longer be valid.
        """
        config = self.model.config
        length = min([int(config.max_position_embeddings), *_constant_rotary_lengths(config)])
        window = getattr(config, "sliding_window", None)
        slides = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
        return min(length, window) if window and slides else length

    @property
    def layers(self) -> int:
        """The number of layers with keys and values."""
        layers: int = self.model.config.num_hidden_layers
        return layers

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The tokens that end a completion, from the generation config, else from the tokenizer."""
        config = self.model.generation_config
        ids = config.eos_token_id if config is not None else None
        ids = self.tokenizer.eos_token_id if ids is None else ids
        return frozenset([ids] if isinstance(ids, int) else ids or ())


def _constant_rotary_lengths(config: PreTrainedConfig) -> Iterator[int]:
    """Yields the lengths up to which rotary embeddings are constant, where that is less than the whole context.

    Of the types in transformers' `modeling_rope_utils`, `longrope` changes beyond the length of the original training, and `dynamic` beyond
    `max_position_embeddings`, which is never exceeded. The others are constant.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    # Models with several layer types may have one set of parameters for each.
    for rope in (parameters, *parameters.values()):
        if isinstance(rope, dict) and rope.get("rope_type") == "longrope":
            yield int(rope["original_max_position_embeddings"])


def dtype_of(setting: Literal["auto", "float32", "bfloat16", "float16"], device: torch.device) -> torch.dtype:
    """Returns the precision of the models.

    Args:
        setting: `auto` is float32 on a CPU, in which a completion does not depend on its batch, and bfloat16 on a GPU.
        device: Where the models go.
    """
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return choose_dtype(device, "chat") if setting == "auto" else named[setting]


def load_chat(folder: Path, device: torch.device, dtype: torch.dtype, *, name: str = "chat", fused: bool = True) -> ChatModel:
    """Loads a causal language model.

    Args:
        folder: A complete transformers folder.
        device: The target device.
        dtype: The precision.
        name: Its name in messages and log lines.
        fused: Whether its layers are fused, on a CPU; otherwise they stay those of transformers.

    Raises:
        WeightsError: The folder is damaged, incomplete or holds another kind of model.
    """
    with prefetched(weight_files(folder, half=False)):
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        silence(logging)
        model = load_network(AutoModelForCausalLM, folder, name=name, device=device, dtype=dtype, trust_remote_code=False)
    tokenizer = load_tokenizer(
        AutoTokenizer, folder, name=f"{name} tokenizer", vocabulary_size=model.config.vocab_size, required_tokens=("eos",)
    )
    if fused and device.type == "cpu":
        fuse(model)
    return ChatModel(model, tokenizer)
