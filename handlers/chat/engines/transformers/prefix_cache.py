"""The prefix cache: keys and values of system prompts, computed once and reused by later prompts."""

from __future__ import annotations

from collections import OrderedDict

from handlers.chat.engines.transformers.kv_cache import KVCache

TokenIds = tuple[int, ...]


class PrefixCache:
    """An LRU cache of shared prompt prefixes.

    A prompt with a shared prefix is always prefilled in two passes, the prefix and the rest, on a hit and on a miss alike. Completions
    therefore do not depend on the content of the cache.

    Args:
        capacity: The total number of tokens it may hold.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._entries: OrderedDict[TokenIds, KVCache] = OrderedDict()

    def get(self, prefix: TokenIds) -> KVCache | None:
        """Returns the keys and values of a prefix, a cache of one row, or None on a miss."""
        if prefix in self._entries:
            self._entries.move_to_end(prefix)
        return self._entries.get(prefix)

    def put(self, prefix: TokenIds, cache: KVCache) -> None:
        """Adds a prefix, and evicts the least recently used ones beyond the capacity."""
        self._entries[prefix] = cache
        while sum(map(len, self._entries)) > self.capacity:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        """Evicts all prefixes."""
        self._entries.clear()
