"""Encodes prompts, with an LRU cache: the text encoder is the largest network, and negative prompts repeat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cachetools import LRUCache
from torch import Tensor

# The number of tokens that WAN was trained with: shorter prompts are padded with zeros. Longer ones are encoded whole; neither network has
# a limit of its own.
_LENGTH = 512
_CACHE_SIZE = 16


class PromptEncoder:
    """Encodes prompts and caches the embeddings of the most recent ones.

    Args:
        pipeline: A `WanPipeline`, whose tokenizer and text encoder are used.
        load_encoder: Moves the text encoder to the device. Called only on a cache miss.
    """

    def __init__(self, pipeline: Any, load_encoder: Callable[[], None] = lambda: None) -> None:
        self._pipeline = pipeline
        self._load_encoder = load_encoder
        self._cache: LRUCache[str, Tensor] = LRUCache(_CACHE_SIZE)

    def embed(self, prompt: str, negative_prompt: str | None, *, guided: bool) -> dict[str, Tensor]:
        """Encodes both prompts, padded to the same length.

        Args:
            prompt: Of any length.
            negative_prompt: Of any length; None is the same as an empty one.
            guided: Whether the negative prompt is used: without guidance it is not.

        Returns:
            The pipelines' arguments, each 1 × tokens × width. Equal to what the pipelines would encode themselves.
        """
        texts = {"prompt_embeds": prompt} | ({"negative_prompt_embeds": negative_prompt or ""} if guided else {})
        encoded = {name: self._encode(text) for name, text in texts.items()}
        length = max(_LENGTH, *(rows.shape[1] for rows in encoded.values())) if encoded else _LENGTH
        return {name: torch.nn.functional.pad(rows, (0, 0, 0, length - rows.shape[1])) for name, rows in encoded.items()}

    def _encode(self, text: str) -> Tensor:
        if text not in self._cache:
            self._cache[text] = self._run_encoder(text)
        return self._cache[text]

    def _run_encoder(self, text: str) -> Tensor:
        """1 × the text's own tokens × width."""
        self._load_encoder()
        # The pipeline cleans a text before it counts tokens, which can only reduce their number.
        count = max(_LENGTH, len(self._pipeline.tokenizer(text, truncation=False, verbose=False).input_ids))
        rows, _ = self._pipeline.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=count)
        used = int(rows[0].abs().sum(-1).nonzero().max()) + 1
        trimmed: Tensor = rows[:, :used].clone()
        return trimmed
