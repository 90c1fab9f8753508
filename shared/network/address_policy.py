"""Classifies addresses as public or not, and resolves names by a deadline."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Sequence
from typing import Any, Protocol

import httpcore

from shared.network.deadline import Deadline


class HostRefused(Exception):
    """The SSRF guard refused a host, or its certificate is invalid; a retry would not help. The text is the reason: `its host has …`."""


class Resolver(Protocol):
    """`socket.getaddrinfo`, or a test's replacement."""

    def __call__(self, host: str, port: int, *, type: int) -> Sequence[tuple[Any, ...]]:
        """Resolves a host like `socket.getaddrinfo`."""


# IANA's special-purpose registries, and the addresses of cloud metadata services. `ipaddress.is_global` does not suffice: it differs
# between patch releases of Python and accepts thirteen of these addresses.
_NON_PUBLIC_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT, and Alibaba's metadata service
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's metadata service
        "169.254.0.0/16",  # link-local, and the metadata service of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments, and Oracle's metadata service
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_GLOBAL_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
# They include the transition mechanisms that embed an IPv4 address: Teredo (in 2001::/23) and 6to4 (2002::/16). NAT64 is outside 2000::/3.
_NON_PUBLIC_V6 = tuple(ipaddress.IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})


def is_public(address: str) -> bool:
    """Returns whether an address is on the public internet. An IPv4-mapped address is classified by its IPv4 address.

    Args:
        address: IPv4 or IPv6, as `socket.getaddrinfo` formats it.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in network for network in _NON_PUBLIC_V4)
    is_isatap = (int(parsed) >> 32) & 0xFFFF_FFFF in _ISATAP
    return parsed in _GLOBAL_UNICAST_V6 and not is_isatap and not any(parsed in network for network in _NON_PUBLIC_V6)


def is_loopback(host: str) -> bool:
    """Returns whether the host of a URL is `localhost` or a loopback address. Nothing is resolved."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def resolve_host(host: str, port: int, resolve: Resolver, deadline: Deadline) -> list[str]:
    """Resolves a name. `getaddrinfo` has no timeout, so it runs on a daemon thread that is abandoned at the deadline.

    Raises:
        httpcore.ConnectTimeout: The deadline passed.
        httpcore.ConnectError: The resolver failed temporarily.
        HostRefused: The name does not resolve.
    """
    addresses: list[list[str]] = []
    failures: list[Exception] = []

    def run() -> None:
        try:
            addresses.append(list(dict.fromkeys(str(info[4][0]) for info in resolve(host, port, type=socket.SOCK_STREAM))))
        except (OSError, UnicodeError, OverflowError) as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="resolve-host", daemon=True)
    thread.start()
    thread.join(deadline.remaining)
    if addresses:
        return addresses[0]
    if not failures:
        raise httpcore.ConnectTimeout("Name resolution timed out.")
    if isinstance(failures[0], socket.gaierror) and failures[0].errno == socket.EAI_AGAIN:
        raise httpcore.ConnectError("Name resolution failed temporarily.")
    raise HostRefused("its host does not resolve")
