"""Prompts become embeddings, each once: the text encoder is the largest network, and negative prompts repeat."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Tokens that WAN was trained with: shorter prompts are filled up with zeros. Longer ones are encoded whole all the same; neither network
# has a limit of its own.
_LENGTH = 512
_REMEMBERED = 16


class Prompts:
    """Encodes prompts and remembers the latest.

    Args:
        pipeline: A `WanPipeline`, of which the tokenizer and the text encoder are used.
        bring: Has the text encoder where it can compute. Called only when a text is not known.
    """

    def __init__(self, pipeline: Any, bring: Callable[[], None] = lambda: None) -> None:
        self._pipeline = pipeline
        self._bring = bring
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    def embed(self, prompt: str, negative_prompt: str | None, *, guided: bool) -> dict[str, Tensor]:
        """Encodes both prompts, to the same length.

        Args:
            prompt: Any length.
            negative_prompt: Any length; None means the same as an empty one.
            guided: Whether the negative prompt counts: without guidance it does not.

        Returns:
            As the pipelines take them, each 1 × tokens × width. Equal to what they would encode themselves.
        """
        texts = {"prompt_embeds": prompt} | ({"negative_prompt_embeds": negative_prompt or ""} if guided else {})
        encoded = {name: self._encode(text) for name, text in texts.items()}
        length = max(_LENGTH, *(rows.shape[1] for rows in encoded.values())) if encoded else _LENGTH
        return {name: torch.nn.functional.pad(rows, (0, 0, 0, length - rows.shape[1])) for name, rows in encoded.items()}

    def _encode(self, text: str) -> Tensor:
        if text not in self._known:
            self._known[text] = self._encode_anew(text)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(text)
        return self._known[text]

    def _encode_anew(self, text: str) -> Tensor:
        """1 × the text's own tokens × width."""
        # The pipeline cleans a text before it counts tokens, which can only make fewer of them.
        self._bring()
        count = max(_LENGTH, len(self._pipeline.tokenizer(text, truncation=False, verbose=False).input_ids))
        rows, _ = self._pipeline.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=count)
        used = int(rows[0].abs().sum(-1).nonzero().max()) + 1
        trimmed: Tensor = rows[:, :used].clone()
        return trimmed
