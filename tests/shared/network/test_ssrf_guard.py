"""The SSRF guard: private addresses, DNS rebinding, numeric hosts, resolver failures."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from shared.network import Deadline, HostRefused, guarded_client
from tests.shared.network.fake_resolver import FakeResolver

TLS = ssl.create_default_context()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        yield listening


def no_connection(listening: socket.socket) -> bool:
    listening.settimeout(0.1)
    try:
        listening.accept()
    except TimeoutError:
        return True
    return False


def get(url: str, resolver: FakeResolver, *, allow_private: bool = False) -> int:
    with guarded_client(Deadline(60.0), allow_private=lambda host, port: allow_private, verify=TLS, resolve=resolver) as client:
        return client.get(url).status_code


def test_host_with_a_private_address_is_not_contacted(listener: socket.socket) -> None:
    with pytest.raises(HostRefused, match="not public"):
        get(f"http://inside.example:{listener.getsockname()[1]}/", FakeResolver(inside=[["127.0.0.1"]]))
    assert no_connection(listener)


def test_one_private_address_among_public_ones_blocks_the_host(listener: socket.socket) -> None:
    with pytest.raises(HostRefused, match="not public"):
        get(f"http://mixed.example:{listener.getsockname()[1]}/", FakeResolver(mixed=[["127.0.0.1", "3ffe::1"]]))
    assert no_connection(listener)


def test_guard_connects_to_the_address_that_it_checked(listener: socket.socket) -> None:
    resolver = FakeResolver(rebinding=[["3ffe::1"], ["127.0.0.1"]])
    with pytest.raises(httpx.TransportError):
        get(f"http://rebinding.example:{listener.getsockname()[1]}/", resolver)
    assert resolver.lookups == 1, "a second lookup could return another address"
    assert no_connection(listener)


def test_every_connection_is_checked_again(listener: socket.socket) -> None:
    resolver = FakeResolver(rebinding=[["3ffe::1"], ["127.0.0.1"]])
    url = f"http://rebinding.example:{listener.getsockname()[1]}/"
    with guarded_client(Deadline(60.0), allow_private=lambda host, port: False, verify=TLS, resolve=resolver) as client:
        with pytest.raises(httpx.TransportError):
            client.get(url)
        with pytest.raises(HostRefused, match="not public"):
            client.get(url)
    assert no_connection(listener)


def test_every_request_opens_a_new_connection() -> None:
    """Supabase Storage keeps the connection of an upload that it rejected unread, and never responds on it again."""
    clients = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            clients.append(self.client_address)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        with guarded_client(Deadline(60.0), allow_private=lambda host, port: True, verify=TLS) as client:
            assert [client.get(f"http://127.0.0.1:{server.server_port}/").status_code for _ in range(2)] == [200, 200]
        server.shutdown()
    assert len(set(clients)) == 2


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "[::ffff:127.0.0.1]", "127。0。0。1", "[::1]", "0"])
def test_numeric_hosts_are_resolved_before_the_check(listener: socket.socket, host: str) -> None:
    with (
        guarded_client(Deadline(60.0), allow_private=lambda host, port: False, verify=TLS) as client,
        pytest.raises((HostRefused, httpx.InvalidURL)),
    ):
        client.get(f"http://{host}:{listener.getsockname()[1]}/")
    assert no_connection(listener)


def test_unknown_host_is_refused() -> None:
    def unknown(host: str, port: int, *, type: int) -> list[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with (
        guarded_client(Deadline(60.0), allow_private=lambda host, port: False, verify=TLS, resolve=unknown) as client,
        pytest.raises(HostRefused, match="does not resolve"),
    ):
        client.get("http://unknown.example/")


def test_temporary_resolver_failure_is_a_connection_error() -> None:
    def failing(host: str, port: int, *, type: int) -> list[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    with (
        guarded_client(Deadline(60.0), allow_private=lambda host, port: False, verify=TLS, resolve=failing) as client,
        pytest.raises(httpx.ConnectError),
    ):
        client.get("http://unknown.example/")


def test_hanging_resolver_is_bounded_by_the_deadline() -> None:
    done = threading.Event()

    def hanging(host: str, port: int, *, type: int) -> list[tuple[Any, ...]]:
        done.wait()
        return []

    started = time.monotonic()
    with (
        guarded_client(Deadline(0.2), allow_private=lambda host, port: False, verify=TLS, resolve=hanging) as client,
        pytest.raises(httpx.ConnectTimeout),
    ):
        client.get("http://slow.example/")
    assert time.monotonic() - started < 60
    done.set()


def test_proxies_in_the_environment_are_ignored(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{listener.getsockname()[1]}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{listener.getsockname()[1]}")
    with pytest.raises(HostRefused):
        get("http://inside.example/", FakeResolver(inside=[["10.0.0.1"]]))
    assert no_connection(listener)
