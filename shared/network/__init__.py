"""The socket under everything that speaks HTTP: one deadline for all of a request, and only addresses that may be contacted.

URLs are easy to misread: names that resolve to private addresses, names that resolve differently the second time, numbers that only a
resolver takes for addresses. So the guard does not judge URLs. It sits where the connection is made, judges every address that the name
really has, and connects to one of those it has judged.
"""

from __future__ import annotations

import httpx

from shared.network.addresses import HostRefused, Resolve, is_loopback, is_public
from shared.network.deadline import Deadline
from shared.network.retries import FailedTry, tries
from shared.network.sockets import guarded_client

__all__ = ["Deadline", "FailedTry", "HostRefused", "Origin", "Resolve", "guarded_client", "is_loopback", "is_public", "origin", "tries"]

Origin = tuple[str, str, int]
"""Scheme, host and port."""

_PORTS = {"http": 80, "https": 443}


def origin(url: httpx.URL) -> Origin:
    """Where a URL leads. The same parser reads it here and when the request is made, so both see the same host."""
    return url.scheme, url.host, url.port or _PORTS.get(url.scheme, 0)
