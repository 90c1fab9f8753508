"""Which addresses belong to the public internet, and which addresses a name has."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Sequence
from typing import Any, Protocol

import httpcore

from shared.network.deadline import Deadline


class HostRefused(Exception):
    """A host is not contacted, or not believed, and trying again changes nothing. Its text is the reason: `its host has …`."""


class Resolver(Protocol):
    """`socket.getaddrinfo`, or what a test puts in its place."""

    def __call__(self, host: str, port: int, *, type: int) -> Sequence[tuple[Any, ...]]:
        """The addresses of a host, as `socket.getaddrinfo` gives them."""


# Everything that is not the public internet: the special-purpose registries of IANA, and what clouds serve their metadata from.
# `is_global` alone differs between patch releases of Python and lets thirteen of these pass.
_CLOSED_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers, and the metadata of Alibaba
        "127.0.0.0/8",
        "168.63.129.16/32",  # the metadata of Azure
        "169.254.0.0/16",  # link-local, and the metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments, and the metadata of Oracle
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
_OPEN_V6 = ipaddress.IPv6Network("2000::/3")
# Among them every form that carries an IPv4 address: Teredo (in 2001::/23) and 6to4 (2002::/16); NAT64 lies outside 2000::/3.
_CLOSED_V6 = tuple(ipaddress.IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, also when it carries another address inside.

    Args:
        address: IPv4 or IPv6, as `socket.getaddrinfo` writes it.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in network for network in _CLOSED_V4)
    carries_v4 = (int(parsed) >> 32) & 0xFFFF_FFFF in _ISATAP
    return parsed in _OPEN_V6 and not carries_v4 and not any(parsed in network for network in _CLOSED_V6)


def is_loopback(host: str) -> bool:
    """Whether a host, as a URL writes it, is this machine by its name or number. Nothing is resolved."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def resolve_host(host: str, port: int, resolve: Resolver, deadline: Deadline) -> list[str]:
    """Resolves a name by a deadline. The resolver has none of its own, so it works in a thread that is left behind when it is late."""
    answers: list[list[str]] = []
    failures: list[Exception] = []

    def ask() -> None:
        try:
            answers.append(list(dict.fromkeys(str(info[4][0]) for info in resolve(host, port, type=socket.SOCK_STREAM))))
        except (OSError, UnicodeError, OverflowError) as error:
            failures.append(error)

    thread = threading.Thread(target=ask, name="look-up", daemon=True)
    thread.start()
    thread.join(deadline.remaining)
    if answers:
        return answers[0]
    if not failures:
        raise httpcore.ConnectTimeout("The name look-up took too long.")
    if isinstance(failures[0], socket.gaierror) and failures[0].errno == socket.EAI_AGAIN:
        raise httpcore.ConnectError("The name look-up failed for now.")
    raise HostRefused("its host is not known to the name service")
