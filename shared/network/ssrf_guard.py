"""Connections that end by a deadline and lead only where they may, and a client that uses them."""

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

_CONNECT_TIMEOUT = 5.0
_WRITE_PIECE = 64 * 1024


class _TimedStream(httpcore.NetworkStream):
    """A connection whose every read, write and handshake ends by the deadline.

    Timeouts of single reads do not suffice: a host that sends one byte per second never misses one.
    """

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def _left(self, timeout: float | None, passed: type[httpcore.TimeoutException]) -> float:
        left = self._deadline.remaining
        if left == 0.0:
            raise passed("The deadline has passed.")
        return left if timeout is None else min(left, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE_PIECE):
            self._stream.write(buffer[start : start + _WRITE_PIECE], self._left(timeout, httpcore.WriteTimeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            stream = self._stream.start_tls(ssl_context, server_hostname, self._left(timeout, httpcore.ConnectTimeout))
        except httpcore.ConnectError as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                raise HostRefused("its host has no valid certificate for its name") from error
            raise
        return _TimedStream(stream, self._deadline)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _GuardedBackend(httpcore.NetworkBackend):
    """Makes connections by a deadline, and only to public addresses unless host and port are allow_private."""

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
        for address in addresses:
            left = self._deadline.remaining
            if left == 0.0:
                raise httpcore.ConnectTimeout("The deadline has passed.")
            try:
                stream = self._sockets.connect_tcp(address, port, min(left, _CONNECT_TIMEOUT), local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _TimedStream(stream, self._deadline)
        raise failure


@contextmanager
def _httpx_errors() -> Iterator[None]:
    try:
        yield
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
        # Both libraries call these by the same names.
        raise getattr(httpx, type(error).__name__)(str(error)) from error


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with _httpx_errors():
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


class _GuardedTransport(httpx.BaseTransport):
    """Carries requests over a network backend, for which httpx's own transport has no argument."""

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
        return httpx.Response(response.status, headers=response.headers, stream=_Body(response), extensions=response.extensions)

    def close(self) -> None:
        self._pool.close()


def guarded_client(
    deadline: Deadline,
    *,
    allow_private: Callable[[str, int], bool],
    verify: ssl.SSLContext,
    resolve: Resolver = socket.getaddrinfo,
    read_seconds: float | None = None,
) -> httpx.Client:
    """Opens a client for the requests of one try.

    It keeps no connection alive, follows no redirect and, because it has a transport of its own, reads no proxy from the environment.

    Args:
        deadline: By which everything ends: look-up, connection, handshake, request and answer.
        allow_private: Says of a host and port whether they may have addresses that are not public.
        verify: The certificates that are believed.
        resolve: Resolves names.
        read_seconds: The longest that a single read or write may take; by default what is left until the deadline.

    Returns:
        A client that raises `HostRefused` beside the exceptions of httpx.
    """
    return httpx.Client(
        transport=_GuardedTransport(_GuardedBackend(deadline, allow_private, resolve), verify),
        follow_redirects=False,
        timeout=read_seconds,
    )
