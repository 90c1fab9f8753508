"""A language model and its tokenizer from their transformers folder. Nothing here needs diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from shared.models.load import load_network, load_tokenizer, quiet
from shared.models.prefetch import prefetched
from shared.weights.folders import weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast


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
        """How many tokens fit, prompt and answer together. A tokenizer's own limit is not it.

        Where a model's attention looks back through a window only, that window: within it, the model looks at everything. Where its rotary
        embedding depends on the length of what is read, the length that it was first trained with: up to there it does not. Beyond, the
        longest conversation would decide for all that are read with it, and for what was read before.
        """
        config = self.model.config
        length = min([int(config.max_position_embeddings), *_unscaled(config)])
        window = getattr(config, "sliding_window", None)
        slides = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
        return min(length, window) if window and slides else length

    @property
    def layers(self) -> int:
        """How many of its layers have keys and values."""
        layers: int = self.model.config.num_hidden_layers
        return layers

    @property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end a text, as the model's own generation config names them, or else its tokenizer."""
        config = self.model.generation_config
        named = config.eos_token_id if config is not None else None
        named = self.tokenizer.eos_token_id if named is None else named
        return frozenset([named] if isinstance(named, int) else named or ())


def _unscaled(config: PreTrainedConfig) -> Iterator[int]:
    """Up to which lengths rotary embeddings stay the same, where it is not the whole context.

    Of the kinds in transformers' `modeling_rope_utils`, `longrope` changes beyond the length it was first trained with; `dynamic` beyond
    `max_position_embeddings`, which is never passed. The others do not change.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    # Models with several kinds of layers may have one for each kind.
    for rope in (parameters, *parameters.values()):
        if isinstance(rope, dict) and rope.get("rope_type") == "longrope":
            yield int(rope["original_max_position_embeddings"])


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
