"""An httpx client whose transport guards against SSRF and DNS rebinding, and ends every request by a deadline."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx

from shared.network.address_policy import HostRefused, Resolver, is_public, resolve_host
from shared.network.deadline import Deadline

_CONNECT_TIMEOUT = 5.0  # seconds for each address of a host
_WRITE_CHUNK = 64 * 1024


class _DeadlineStream(httpcore.NetworkStream):
    """A connection whose reads, writes and TLS handshake share one deadline.

    A timeout per read is not enough: a host that sends one byte per second never exceeds it.
    """

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def _limit(self, timeout: float | None, expired: type[httpcore.TimeoutException]) -> float:
        remaining = self._deadline.remaining
        if remaining == 0.0:
            raise expired("The deadline has passed.")
        return remaining if timeout is None else min(remaining, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._limit(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE_CHUNK):
            self._stream.write(buffer[start : start + _WRITE_CHUNK], self._limit(timeout, httpcore.WriteTimeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            stream = self._stream.start_tls(ssl_context, server_hostname, self._limit(timeout, httpcore.ConnectTimeout))
        except httpcore.ConnectError as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                raise HostRefused("its host has no valid certificate for its name") from error
            raise
        return _DeadlineStream(stream, self._deadline)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _GuardedBackend(httpcore.NetworkBackend):
    """Connects to public addresses only, except for hosts and ports that are allowed private ones."""

    def __init__(self, deadline: Deadline, allow_private: Callable[[str, int], bool], resolve: Resolver) -> None:
        self._deadline = deadline
        self._allow_private = allow_private
        self._resolve = resolve
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = resolve_host(host, port, self._resolve, self._deadline)
        if not self._allow_private(host, port) and not all(is_public(address) for address in addresses):
            raise HostRefused("its host has an address that is not public")
        failure: httpcore.ConnectError | httpcore.ConnectTimeout = httpcore.ConnectError("The host has no address.")
        # Connects by address, not by name: a second lookup could return another address (DNS rebinding, TOCTOU).
        for address in addresses:
            remaining = self._deadline.remaining
            if remaining == 0.0:
                raise httpcore.ConnectTimeout("The deadline has passed.")
            try:
                stream = self._sockets.connect_tcp(address, port, min(remaining, _CONNECT_TIMEOUT), local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _DeadlineStream(stream, self._deadline)
        raise failure


@contextmanager
def _httpx_errors() -> Iterator[None]:
    try:
        yield
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
        # The exceptions of httpx have the same names as those of httpcore.
        raise getattr(httpx, type(error).__name__)(str(error)) from error


class _ResponseStream(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with _httpx_errors():
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


class _GuardedTransport(httpx.BaseTransport):
    """An httpx transport over a given network backend; `httpx.HTTPTransport` does not accept one."""

    def __init__(self, backend: httpcore.NetworkBackend, verify: ssl.SSLContext) -> None:
        self._pool = httpcore.ConnectionPool(ssl_context=verify, max_keepalive_connections=0, network_backend=backend)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        with _httpx_errors():
            response = self._pool.handle_request(
                httpcore.Request(
                    request.method,
                    httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx.Response(response.status, headers=response.headers, stream=_ResponseStream(response), extensions=response.extensions)

    def close(self) -> None:
        self._pool.close()


def guarded_client(
    deadline: Deadline,
    *,
    allow_private: Callable[[str, int], bool],
    verify: ssl.SSLContext,
    resolve: Resolver = socket.getaddrinfo,
    read_timeout: float | None = None,
) -> httpx.Client:
    """Returns a client for the requests of one attempt.

    It keeps no connection alive, follows no redirect and, because it has its own transport, ignores proxies in the environment.

    Args:
        deadline: For everything: name resolution, connection, TLS handshake, request and response.
        allow_private: Whether a host and port may have addresses that are not public.
        verify: The trusted certificates.
        resolve: The resolver.
        read_timeout: Maximum seconds of a single read or write; by default the rest of the deadline.

    Returns:
        A client that raises `HostRefused` in addition to the exceptions of httpx.
    """
    return httpx.Client(
        transport=_GuardedTransport(_GuardedBackend(deadline, allow_private, resolve), verify),
        follow_redirects=False,
        timeout=read_timeout,
    )
