"""The socket under everything that speaks HTTP: one deadline for all of a request, and only addresses that may be contacted.

URLs are easy to misread: names that resolve to private addresses, names that resolve differently the second time, numbers that only a
resolver takes for addresses. So the guard does not judge URLs. It sits where the connection is made, judges every address that the name
really has, and connects to one of those it has judged.
"""

from __future__ import annotations

import httpx

from shared.network.address_policy import HostRefused, Resolver, is_loopback, is_public
from shared.network.deadline import Deadline
from shared.network.retries import RequestFailed, retrying
from shared.network.ssrf_guard import guarded_client
from shared.settings import SettingsError

__all__ = [
    "Deadline",
    "HostRefused",
    "Origin",
    "RequestFailed",
    "Resolver",
    "configured_origin",
    "guarded_client",
    "is_loopback",
    "is_public",
    "origin",
    "retrying",
]

Origin = tuple[str, str, int]
"""Scheme, host and port."""

_PORTS = {"http": 80, "https": 443}


def origin(url: httpx.URL) -> Origin:
    """Where a URL leads. The same parser reads it here and when the request is made, so both see the same host."""
    return url.scheme, url.host, url.port or _PORTS.get(url.scheme, 0)


def configured_origin(variable: str, url: str | None) -> Origin | None:
    """Where a URL of the operator's leads, None where there is none.

    Raises:
        SettingsError: It is not a URL. The message names the variable.
    """
    try:
        parsed = httpx.URL(url) if url is not None else None
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed is not None and not parsed.host:
        raise SettingsError(f"{variable} is not a URL. Please correct it.")
    return origin(parsed) if parsed is not None else None
