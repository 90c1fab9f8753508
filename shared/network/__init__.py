"""The transport under every HTTP client: an SSRF guard, one deadline for all of a request, retries with exponential backoff.

An SSRF guard that judges URLs can be bypassed: by names that resolve to private addresses, by numbers that only a resolver reads as
addresses, and by DNS rebinding, where a name resolves differently between the check and the connection (TOCTOU). This one sits in the
transport: it checks every address that the name resolves to, and connects to one of the addresses that it checked.
"""

from __future__ import annotations

import httpx

from shared.network.address_policy import HostRefused, Resolver, is_loopback, is_public
from shared.network.deadline import Deadline
from shared.network.retries import REFERENCE_RETRIES, STORAGE_RETRIES, WEBHOOK_RETRIES, RequestFailed, RetryPolicy, retrying
from shared.network.ssrf_guard import guarded_client
from shared.settings import SettingsError

__all__ = [
    "REFERENCE_RETRIES",
    "STORAGE_RETRIES",
    "WEBHOOK_RETRIES",
    "Deadline",
    "HostRefused",
    "Origin",
    "RequestFailed",
    "Resolver",
    "RetryPolicy",
    "configured_origin",
    "guarded_client",
    "is_loopback",
    "is_public",
    "origin",
    "retrying",
]

Origin = tuple[str, str, int]
"""Scheme, host and port."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


def origin(url: httpx.URL) -> Origin:
    """Returns the origin of a URL. The check and the request use the same parser, so both see the same host."""
    return url.scheme, url.host, url.port or _DEFAULT_PORTS.get(url.scheme, 0)


def configured_origin(variable: str, url: str | None) -> Origin | None:
    """Returns the origin of a configured URL, or None if it is not set.

    Raises:
        SettingsError: The URL is invalid. The message names the variable.
    """
    if url is None:
        return None
    try:
        found = origin(httpx.URL(url))
    except (httpx.InvalidURL, ValueError):  # of host names, `idna` raises subclasses of ValueError
        found = ("", "", 0)
    if not found[1]:
        raise SettingsError(f"{variable} is not a valid URL. Correct it.")
    return found
