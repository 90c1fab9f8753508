import socket
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from shared.network import Deadline, HostRefused, guarded_client, is_loopback, is_public

TLS = ssl.create_default_context()

CLOSED = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",  # the metadata of Alibaba
    "127.0.0.1",
    "127.1.2.3",
    "168.63.129.16",  # the metadata of Azure
    "169.254.169.254",  # the metadata of most clouds
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",  # the metadata of Oracle
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:a00:1",
    "64:ff9b::7f00:1",  # NAT64
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",  # Teredo
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "2002:a9fe:a9fe::1",
    "2606:4700::5efe:10.0.0.1",  # ISATAP
    "2606:4700::200:5efe:10.0.0.1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",  # the metadata of AWS
    "fe80::1",
    "fe80::1%lo",
    "fec0::1",
    "ff02::1",
    "not an address",
    "",
]


@pytest.mark.parametrize("address", CLOSED)
def test_an_address_that_is_not_of_the_public_internet_is_recognised(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "100.128.0.1", "172.32.0.1", "192.0.1.1", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_a_public_address_is_recognised(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("host", "expected"), [("localhost", True), ("127.0.0.2", True), ("::1", True), ("localhost.evil.example", False), ("10.0.0.1", False)]
)
def test_loopback_is_known_by_name_and_number(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


class Names:
    """Answers look-ups: for each name one list of addresses after the other, the last for good."""

    def __init__(self, **names: list[list[str]]) -> None:
        self._names = names
        self.asked = 0

    def __call__(self, host: str, port: int, *, type: int) -> list[tuple[Any, ...]]:
        self.asked += 1
        lists = self._names[host.partition(".")[0]]
        addresses = lists.pop(0) if len(lists) > 1 else lists[0]
        return [(socket.AF_INET, type, 6, "", (address, port)) for address in addresses]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        yield listening


def nobody_came(listening: socket.socket) -> bool:
    listening.settimeout(0.1)
    try:
        listening.accept()
    except TimeoutError:
        return True
    return False


def get(url: str, names: Names, *, seconds: float = 2.0, allow_private: bool = False) -> int:
    with guarded_client(Deadline(seconds), allow_private=lambda host, port: allow_private, verify=TLS, resolve=names) as client:
        return client.get(url).status_code


def test_a_name_with_a_private_address_is_not_contacted(listener: socket.socket) -> None:
    with pytest.raises(HostRefused, match="not public"):
        get(f"http://inside.example:{listener.getsockname()[1]}/", Names(inside=[["127.0.0.1"]]))
    assert nobody_came(listener)


def test_one_private_address_among_public_ones_is_enough_to_refuse(listener: socket.socket) -> None:
    with pytest.raises(HostRefused, match="not public"):
        get(f"http://mixed.example:{listener.getsockname()[1]}/", Names(mixed=[["3ffe::1", "127.0.0.1"]]))
    assert nobody_came(listener)


def test_the_address_that_was_judged_is_the_one_that_is_contacted(listener: socket.socket) -> None:
    names = Names(rebinding=[["3ffe::1"], ["127.0.0.1"]])
    with pytest.raises(httpx.TransportError):
        get(f"http://rebinding.example:{listener.getsockname()[1]}/", names, seconds=0.5)
    assert names.asked == 1, "a second look-up could have another answer"
    assert nobody_came(listener)


def test_every_connection_is_judged_anew(listener: socket.socket) -> None:
    names = Names(rebinding=[["3ffe::1"], ["127.0.0.1"]])
    url = f"http://rebinding.example:{listener.getsockname()[1]}/"
    with guarded_client(Deadline(0.5), allow_private=lambda host, port: False, verify=TLS, resolve=names) as client:
        with pytest.raises(httpx.TransportError):
            client.get(url)
        with pytest.raises(HostRefused, match="not public"):
            client.get(url)
    assert nobody_came(listener)


def test_every_request_has_a_connection_of_its_own() -> None:
    """A service that has refused an upload unread keeps the connection, and answers nothing more on it."""
    came = []

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            came.append(self.client_address)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        with guarded_client(Deadline(5.0), allow_private=lambda host, port: True, verify=TLS) as client:
            assert [client.get(f"http://127.0.0.1:{server.server_port}/").status_code for _ in range(2)] == [200, 200]
        server.shutdown()
    assert len(set(came)) == 2


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "[::ffff:127.0.0.1]", "127。0。0。1", "[::1]", "0"])
def test_numbers_that_a_resolver_takes_for_addresses_are_judged_as_such(listener: socket.socket, host: str) -> None:
    with (
        guarded_client(Deadline(2.0), allow_private=lambda host, port: False, verify=TLS) as client,
        pytest.raises((HostRefused, httpx.InvalidURL)),
    ):
        client.get(f"http://{host}:{listener.getsockname()[1]}/")
    assert nobody_came(listener)


def test_a_name_that_nobody_knows_is_refused() -> None:
    def unknown(host: str, port: int, *, type: int) -> list[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with (
        guarded_client(Deadline(2.0), allow_private=lambda host, port: False, verify=TLS, resolve=unknown) as client,
        pytest.raises(HostRefused, match="not known"),
    ):
        client.get("http://unknown.example/")


def test_a_name_service_that_fails_for_now_may_be_asked_again() -> None:
    def failing(host: str, port: int, *, type: int) -> list[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    with (
        guarded_client(Deadline(2.0), allow_private=lambda host, port: False, verify=TLS, resolve=failing) as client,
        pytest.raises(httpx.ConnectError),
    ):
        client.get("http://unknown.example/")


def test_a_name_service_that_hangs_costs_no_more_than_the_deadline() -> None:
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
    assert time.monotonic() - started < 5
    done.set()


def test_nothing_of_the_environment_sends_requests_elsewhere(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{listener.getsockname()[1]}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{listener.getsockname()[1]}")
    with pytest.raises(HostRefused):
        get("http://inside.example/", Names(inside=[["10.0.0.1"]]))
    assert nobody_came(listener)


def test_a_deadline_within_another_never_ends_after_it() -> None:
    assert Deadline(1.0).within(100.0).remaining <= 1.0
    assert Deadline(100.0).within(1.0).remaining <= 1.0
    assert Deadline(0.0).remaining == 0.0
