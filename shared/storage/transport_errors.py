"""Translates errors of the connection to a storage service into messages that are safe to log, with whether to retry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from shared.network import HostRefused, RequestFailed


@contextmanager
def translate_transport_errors() -> Iterator[None]:
    """Raises `RequestFailed` for everything that keeps a valid response from arriving."""
    try:
        yield
    except httpx.TimeoutException:
        raise RequestFailed("storage timed out", retryable=True) from None
    except httpx.TransportError:
        raise RequestFailed("the connection to storage failed", retryable=True) from None
    except HostRefused as error:
        raise RequestFailed(f"storage was not contacted, {error}", retryable=False) from None
    except (KeyError, TypeError, ValueError):
        # For example a gateway's error page. Whether the object was stored is unknown.
        raise RequestFailed("storage sent an invalid response", retryable=True) from None
