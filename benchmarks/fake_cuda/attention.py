"""Attention on the fake device: one fused kernel, as CUDA runs it, in place of the composite of a build without CUDA."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from benchmarks.fake_cuda.card import Card
from benchmarks.fake_cuda.checks import check_attention

_FLASH_WIDTH = 256
"""The widest head of the flash kernel."""


class FusedAttention:
    """Stands in for `torch.nn.functional.scaled_dot_product_attention`.

    Args:
        card: Counts the calls on its tensors.
        original: Serves tensors on the CPU.
    """

    def __init__(self, card: Card, original: Any) -> None:
        self._card = card
        self._original = original

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **options: Any) -> Tensor:
        """Returns a tensor of the result's shape, laid out as fused kernels do: the heads' outputs of a token are adjacent."""
        if not any(isinstance(tensor, FakeTensor) for tensor in (query, key, value)):
            result: Tensor = self._original(query, key, value, attn_mask, *args, **options)
            return result
        check_attention(query, key, value, attn_mask)
        self._count(query, key, value, attn_mask)
        *batch, heads, tokens, _ = query.shape
        output = torch.empty((*batch, tokens, heads, value.shape[-1]), dtype=query.dtype, device=query.device)
        return output.transpose(-2, -3)

    def _count(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
        counts, phase = self._card.counts, self._card.phase
        width = query.shape[-1]
        counts.attention[phase, _kernel(query, mask)] += 1
        pairs = query.numel() // width * key.shape[-2]
        counts.flops[phase, str(query.dtype).removeprefix("torch.")] += 2 * pairs * (width + value.shape[-1])
        counts.kernels[phase] += 1
        counts.traffic[phase] += sum(tensor.nbytes for tensor in (query, key, value, query))


def _kernel(query: Tensor, mask: Tensor | None) -> str:
    """The kernel that torch would choose."""
    half, width = query.dtype in (torch.float16, torch.bfloat16), query.shape[-1]
    if half and mask is None and width <= _FLASH_WIDTH:
        return "flash"
    return "efficient" if width % (8 if half else 4) == 0 else "math"
