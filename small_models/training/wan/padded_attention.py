"""Cross-attention to zero-padded text at the cost of the unpadded text."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor

from small_models.training.wan.networks import CONTEXT_LENGTH


class PaddedTextAttnProcessor(WanAttnProcessor):  # type: ignore[misc]  # the library has no types
    """Attends to a short text as if it were zero-padded to `CONTEXT_LENGTH`.

    The last row of the text must be zeros and stands for all padding: its attention score is increased by the logarithm of their number,
    which yields the same softmax as that many equal scores.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        """Returns the attention output, batch × positions × width."""
        assert encoder_hidden_states is not None
        length = encoder_hidden_states.shape[1]
        bias = torch.zeros(1, 1, 1, length, device=hidden_states.device, dtype=hidden_states.dtype)
        bias[..., -1] = math.log(CONTEXT_LENGTH - length + 1)
        attended: Tensor = super().__call__(attn, hidden_states, encoder_hidden_states, bias, rotary_emb)
        return attended


def set_cross_attention_processor(transformer: Any, processor: WanAttnProcessor) -> None:
    """Sets the processor of every text cross-attention layer."""
    for block in (*transformer.blocks, *transformer.vace_blocks):
        block.attn2.set_processor(processor)
