"""What several prompts begin with, read once: the keys and values of system prompts."""

from __future__ import annotations

from collections import OrderedDict

from handlers.chat.engines.transformers.kv_cache import RowCache

Ids = tuple[int, ...]


class Prefixes:
    """The latest used beginnings.

    They are exact: a prompt with a beginning is always read in two parts, that beginning and the rest, whether the first is remembered
    or not. So what is written does not depend on what is remembered.

    Args:
        room: How many tokens it holds at most, all beginnings together.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self._held: OrderedDict[Ids, RowCache] = OrderedDict()

    def get(self, beginning: Ids) -> RowCache | None:
        """Its keys and values, a cache of one row, if they are remembered."""
        if beginning in self._held:
            self._held.move_to_end(beginning)
        return self._held.get(beginning)

    def put(self, beginning: Ids, cache: RowCache) -> None:
        """Remembers a beginning, and forgets those that were not used for longest."""
        self._held[beginning] = cache
        while sum(map(len, self._held)) > self.room:
            self._held.popitem(last=False)
