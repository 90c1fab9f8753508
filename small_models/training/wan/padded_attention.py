"""Attention to padded text, without the padding's cost."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor

from small_models.training.wan.networks import WINDOW


class PaddedText(WanAttnProcessor):  # type: ignore[misc]  # the library has no types
    """Attends to a short text as if zeros filled it up to `WINDOW`.

    The last row of a text has to be zeros. It stands for all of them: its score gets the logarithm of their number, which gives the same
    sum as so many equal scores.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        """Batch × positions × width: what each position gathers from the text."""
        assert encoder_hidden_states is not None
        length = encoder_hidden_states.shape[1]
        scores = torch.zeros(1, 1, 1, length, device=hidden_states.device, dtype=hidden_states.dtype)
        scores[..., -1] = math.log(WINDOW - length + 1)
        mixed: Tensor = super().__call__(attn, hidden_states, encoder_hidden_states, scores, rotary_emb)
        return mixed


def set_text_attention(transformer: Any, processor: WanAttnProcessor) -> None:
    """Gives all attention to text this processor."""
    for block in (*transformer.blocks, *transformer.vace_blocks):
        block.attn2.set_processor(processor)
