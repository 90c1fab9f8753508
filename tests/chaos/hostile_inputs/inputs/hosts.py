"""Names, redirects and bodies of hosts, and paths in storage."""

from __future__ import annotations

import zlib
from functools import cache

from tests.chaos.hostile_inputs.registry import UNUSABLE_REFERENCE, Prepare, hostile
from tests.chaos.soak.scenario import DIFFUSION
from tests.doubles.image_server import Behaviour, Handler, answers, drips, floods, redirects, resets

_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

URLS = {
    "`https://xn--a/`": "https://xn--a/",
    "A label of 100 characters": f"https://{'a' * 100}.example/",
    "A name of 1,000 labels": f"https://{'a.' * 1_000}example/",
    "A URL of 1 MB": "https://example.com/" + "a" * 10**6,
    "An unclosed bracket": "https://[::1/",
    "A mapped address": "https://[::ffff:7f00:1]/",
    "A decimal address": "https://2130706433/",
    "Another port": "https://example.com:8443/",
    "A password": "https://user:password@example.com/",
    "A file": "file:///proc/self/environ",
    "A bucket that the operator does not name": "secrets/user-1/key.png",
    "Another user's folder": "workspace-temp/user-2/a.png",
    "A path with dots": "workspace-temp/user-1/../user-2/a.png",
    "A path with escapes": "workspace-temp/user-1/%2e%2e/a.png",
    "1 MB that is not base64": "data:image/png;base64," + "!" * 10**6,
    "Base64 without a prefix": "iVBORw0KGgo" + "A" * 10**6,
}


def _lines(count: int) -> Behaviour:
    def behave(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X-Header: value\r\n" * count + b"\r\n")

    return behave


@cache
def _expanding(size: int = 10**9) -> bytes:
    """Zeros, compressed by gzip to a thousandth."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([*(compressor.compress(bytes(10**7)) for _ in range(size // 10**7)), compressor.flush()])


def _expands(handler: Handler) -> None:
    answers(_expanding(), headers={"Content-Encoding": "gzip"})(handler)


ANSWERS: dict[str, Behaviour] = {
    "A redirect to `https://xn--a/`": redirects("https://xn--a/"),
    "A redirect to an unclosed bracket": redirects("https://[::1/"),
    "A redirect to 60 kB": redirects("https://example.com/" + "a" * 60_000),
    "A redirect to the metadata service": redirects("https://169.254.169.254/"),
    "An error body with 60,000 brackets": answers(b"[" * 60_000, status=400),
    "An error body with a number of 60,000 digits": answers(b'{"statusCode": ' + b"9" * 60_000 + b"}", status=400),
    "An error body that does not end": floods(
        b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"[" * 4096 + b"\r\n"
    ),
    "A body that does not end": floods(_CHUNKED, b"10000\r\n" + bytes(65_536) + b"\r\n"),
    "Headers that do not end": floods(b"HTTP/1.1 200 OK\r\n", b"X-Header: value\r\n"),
    "100,000 headers": _lines(100_000),
    "A length of 10²⁰ bytes": answers(b"", headers={"Content-Length": str(10**20)}),
    "A length of −1": answers(b"", headers={"Content-Length": "-1"}),
    "A chunk of 10²⁰ bytes": drips(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n", b""),
    "A body that expands to 1 GB": _expands,
    "50 kB of cookies": answers(b"", status=404, headers={"Set-Cookie": "a=b; expires=" + "0 " * 25_000}),
    "A date of 50,000 digits in `Retry-After`": answers(b"", status=404, headers={"Retry-After": "9" * 50_000}),
    "No answer": resets,
}


def _named(url: str) -> Prepare:
    return lambda scenario: scenario.use_reference(url=url)


def _answered(answer: Behaviour) -> Prepare:
    return lambda scenario: scenario.use_reference(answer)


for _name, _value in URLS.items():
    hostile("Hosts", f"Reference: {_name[0].lower()}{_name[1:]}", _named(_value), *DIFFUSION, outcomes=UNUSABLE_REFERENCE)
for _name, _answer in ANSWERS.items():
    hostile("Hosts", f"Host: {_name[0].lower()}{_name[1:]}", _answered(_answer), "sdxl", outcomes=UNUSABLE_REFERENCE)
