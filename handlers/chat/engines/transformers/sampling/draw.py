"""Draws tokens from logits: temperature, min-p, top-k, top-p and inverse transform sampling, for all rows at once."""

from __future__ import annotations

import torch
from torch import Tensor

TOP_K = 256
"""The number of most likely tokens that are sorted for top-p. If they do not reach it, the whole vocabulary is sorted."""
NOT_REACHED = -2
"""In place of a token whose nucleus is wider than the tokens that were sorted."""


def temper(logits: Tensor, temperature: Tensor) -> Tensor:
    """Returns probabilities, rows × vocabulary.

    Args:
        logits: Rows × vocabulary, float32.
        temperature: Rows × 1, above 0.
    """
    # Relative to the maximum, so that a temperature near 0 converges to greedy decoding instead of overflowing.
    return ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)


def filter_row(probabilities: Tensor, top_k: int, min_p: float) -> None:
    """Applies min-p (arXiv 2407.01082) and top-k in place to one row. 0 disables either."""
    if min_p > 0:
        probabilities.masked_fill_(probabilities < min_p * probabilities.max(), 0)
    if 0 < top_k < len(probabilities):
        likeliest, ids = probabilities.topk(top_k)
        probabilities.zero_().scatter_(0, ids, likeliest)
    if min_p > 0 or top_k > 0:
        probabilities /= probabilities.sum()


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Draws one token per row, by inverse transform sampling.

    Args:
        probabilities: Rows × vocabulary.
        uniform: Rows × 1, float64, in [0, 1).
    """
    return _inverse_transform(probabilities.double(), uniform)


def draw_from_nucleus(probabilities: Tensor, top_p: Tensor, uniform: Tensor, k: int) -> Tensor:
    """Draws from the smallest set of tokens whose probabilities sum to `top_p` (arXiv 1904.09751); the most likely one is always in it.

    Args:
        probabilities: Rows × vocabulary.
        top_p: Rows × 1, float64.
        uniform: Rows × 1, float64, in [0, 1).
        k: The number of most likely tokens to sort.

    Returns:
        One token per row, or `NOT_REACHED` if `k` tokens do not sum to `top_p` and there are more.
    """
    likeliest, ids = probabilities.topk(min(k, probabilities.shape[1]))
    likeliest = likeliest.double()
    before = likeliest.cumsum(-1) - likeliest
    outside = before >= top_p
    outside[:, 0] = False
    ranks = _inverse_transform(likeliest.masked_fill(outside, 0.0), uniform)
    tokens = ids.gather(1, ranks[:, None])
    if k < probabilities.shape[1]:
        tokens = tokens.masked_fill(before[:, -1:] + likeliest[:, -1:] < top_p, NOT_REACHED)
    return tokens[:, 0]


def _inverse_transform(weights: Tensor, uniform: Tensor) -> Tensor:
    """Returns, per row, the index at which the cumulative weight exceeds `uniform` times the total. Never an index of weight 0."""
    cumulative = weights.cumsum(-1)
    indices = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0]
    # Rounding may move the threshold to the total, beyond the last index of non-zero weight.
    last = weights.shape[1] - 1 - weights.flip(-1).ne(0).int().argmax(-1)
    return torch.minimum(indices, last)
