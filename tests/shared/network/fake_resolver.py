"""A fake of `socket.getaddrinfo`."""

from __future__ import annotations

import socket
from typing import Any


class FakeResolver:
    """Resolves names to given addresses, and counts the lookups.

    Args:
        names: The results of successive lookups by the first label of the name; the last result repeats.
    """

    def __init__(self, **names: list[list[str]]) -> None:
        self._names = names
        self.lookups = 0

    def __call__(self, host: str, port: int, *, type: int) -> list[tuple[Any, ...]]:
        self.lookups += 1
        results = self._names[host.partition(".")[0]]
        addresses = results.pop(0) if len(results) > 1 else results[0]
        return [(socket.AF_INET, type, 6, "", (address, port)) for address in addresses]
