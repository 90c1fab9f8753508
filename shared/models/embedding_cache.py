"""An LRU cache of prompt embeddings: prompts repeat between jobs, negative ones most of all."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from cachetools import LRUCache
from torch import Tensor

_LIMIT = 64 * 2**20  # bytes: a hundred prompts of SDXL, a dozen of WAN's longest

Embeddings = Sequence[Tensor]


class EmbeddingCache:
    """Embeddings by everything that determines them, the least recently used dropped first.

    Args:
        limit: Bytes to keep. Embeddings larger than that are computed each time.
    """

    def __init__(self, limit: int = _LIMIT) -> None:
        self._cache: LRUCache[Hashable, Embeddings] = LRUCache(limit, getsizeof=_size)

    def get_or_compute(self, key: Hashable, compute: Callable[[], Embeddings]) -> Embeddings:
        """Returns the cached embeddings of a key, or computes and caches them.

        Args:
            key: Everything that determines the embeddings.
            compute: Its tensors must not be changed in place by anyone.
        """
        if key in self._cache:
            return self._cache[key]
        embeddings = compute()
        if _size(embeddings) <= self._cache.maxsize:
            self._cache[key] = embeddings
        return embeddings


def _size(embeddings: Embeddings) -> int:
    return sum(tensor.nbytes for tensor in embeddings)
