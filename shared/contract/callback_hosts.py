"""The policy of `CALLBACK_ALLOWED_HOSTS`: to which hosts and ports a request may have its callback sent."""

from __future__ import annotations

from collections.abc import Set
from typing import Final

LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Hosts of development, which plain http may reach."""

_HTTPS_PORT = 443


def allows_callback(host: str, port: int | None, allowed: Set[str]) -> bool:
    """Returns whether a callback may go to a host and port.

    Args:
        host: Lower-case, IPv6 addresses without brackets.
        port: None: 443.
        allowed: Each `host:port`, or `host` for port 443; a loopback host without a port allows all of its ports, for development.
    """
    shown = f"[{host}]" if ":" in host else host
    port = _HTTPS_PORT if port is None else port
    if f"{shown}:{port}" in allowed:
        return True
    return (port == _HTTPS_PORT or host in LOOPBACK_HOSTS) and (host in allowed or shown in allowed)
