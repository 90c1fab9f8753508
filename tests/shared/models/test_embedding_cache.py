"""Embeddings are kept by their keys, within a number of bytes."""

from __future__ import annotations

import torch
from torch import Tensor

from shared.models.embedding_cache import EmbeddingCache


def of_bytes(count: int) -> tuple[Tensor]:
    return (torch.zeros(count, dtype=torch.uint8),)


def test_embeddings_are_computed_once_for_each_key() -> None:
    cache, computed = EmbeddingCache(), []

    def compute() -> tuple[Tensor]:
        computed.append(1)
        return of_bytes(8)

    first = cache.get_or_compute(("a", 1), compute)
    assert cache.get_or_compute(("a", 1), compute) is first
    assert cache.get_or_compute(("a", 2), compute) is not first
    assert len(computed) == 2


def test_the_least_recently_used_are_dropped_beyond_the_limit() -> None:
    cache = EmbeddingCache(100)
    kept = [cache.get_or_compute(name, lambda: of_bytes(40)) for name in "ab"]
    cache.get_or_compute("a", lambda: of_bytes(40))
    cache.get_or_compute("c", lambda: of_bytes(40))
    assert cache.get_or_compute("a", lambda: of_bytes(40)) is kept[0]
    assert cache.get_or_compute("b", lambda: of_bytes(40)) is not kept[1]


def test_embeddings_beyond_the_limit_are_returned_and_not_kept() -> None:
    cache = EmbeddingCache(10)
    assert cache.get_or_compute("a", lambda: of_bytes(11)) is not cache.get_or_compute("a", lambda: of_bytes(11))
