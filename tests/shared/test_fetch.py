"""Fetching references by URL and `data:` URL."""

import base64
import ssl
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
import stamina
from PIL import Image

from shared.contract.references import Reference
from shared.errors import ReferenceImageError
from shared.fetch import Fetcher
from shared.media.images import PixelBudget
from shared.settings import Settings
from tests.doubles.image_server import Behaviour, ImageServer, answers, drips, floods, hangs, redirects, resets, stops_short

FIELD = "metadata.reference_image_url"
HTTP = b"HTTP/1.1 200 OK\r\n"
TLS = ssl.create_default_context()


def image_bytes(format: str = "PNG") -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (32, 24), (200, 100, 50)).save(buffer, format)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _no_backoff() -> Iterator[None]:
    with stamina.set_testing(True, attempts=10, cap=True):
        yield


@pytest.fixture
def host() -> Iterator[ImageServer]:
    with ImageServer() as host:
        yield host


def fetch(host: ImageServer, url: str, **others: Any) -> Image.Image:
    """Fetches with the host as the trusted origin, where loopback and plain http are allowed."""
    return Fetcher(Settings(supabase_url=host.url, **others), verify=TLS).fetch(Reference.parse(url), field=FIELD, user_id="u")


def fetch_error(host: ImageServer, url: str, **others: Any) -> ReferenceImageError:
    with pytest.raises(ReferenceImageError) as caught:
        fetch(host, url, **others)
    assert caught.value.message.startswith(f"`{FIELD}` cannot be used: ")
    return caught.value


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_image_format_is_detected_from_the_content(host: ImageServer, format: str) -> None:
    image = fetch(host, host.serve("/picture.txt", answers(image_bytes(format), headers={"Content-Type": "text/plain"})))
    assert (image.mode, image.size) == ("RGB", (32, 24))


def test_download_sends_no_credentials_and_requests_identity_encoding(host: ImageServer) -> None:
    fetch(host, host.serve("/a.png", answers(image_bytes())) + "?x=1", supabase_key="canary-key")
    ((path, headers),) = host.requests
    assert path == "/a.png?x=1"
    assert headers["accept-encoding"] == "identity"
    assert not {"authorization", "apikey", "cookie", "referer"} & headers.keys()


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_transient_failure_is_retried(host: ImageServer, status: int) -> None:
    failure = answers(b"not now", status=status)
    assert fetch(host, host.serve("/a.png", failure, failure, answers(image_bytes()))).size == (32, 24)


@pytest.mark.parametrize("failure", [resets, stops_short(image_bytes())])
def test_broken_connection_is_retried(host: ImageServer, failure: Behaviour) -> None:
    assert fetch(host, host.serve("/a.png", failure, answers(image_bytes()))).size == (32, 24)


@pytest.mark.parametrize(
    ("failure", "reason"), [(answers(b"", status=503), "503"), (resets, "connection"), (stops_short(b"x"), "connection")]
)
def test_failing_host_is_tried_three_times_and_the_error_is_retryable(host: ImageServer, failure: Behaviour, reason: str) -> None:
    error = fetch_error(host, host.serve("/a.png", failure))
    assert error.retryable
    assert reason in error.message
    assert len(host.requests) == 3


@pytest.mark.parametrize("status", [201, 204, 206, 304, 400, 401, 403, 404, 410])
def test_any_other_status_is_final_and_reported(host: ImageServer, status: int) -> None:
    error = fetch_error(host, host.serve("/a.png", answers(b"", status=status)))
    assert not error.retryable
    assert f"returned HTTP {status}" in error.message
    assert len(host.requests) == 1


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"GIF89a", image_bytes()[:60]])
def test_content_that_is_not_an_image_is_a_permanent_error(host: ImageServer, content: bytes) -> None:
    assert not fetch_error(host, host.serve("/a.png", answers(content, headers={"Content-Type": "image/png"}))).retryable


def test_three_redirects_are_followed(host: ImageServer) -> None:
    host.serve("/a.png", answers(image_bytes()))
    host.serve("/1", redirects("/a.png"))
    host.serve("/2", redirects("/1", status=301))
    assert fetch(host, host.serve("/3", redirects(host.url + "/2", status=307))).size == (32, 24)
    assert "more than 3 times" in fetch_error(host, host.serve("/4", redirects("/3"))).message
    assert "more than 3 times" in fetch_error(host, host.serve("/loop", redirects("/loop"))).message


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("file:///etc/passwd", "only https"),
        ("ftp://127.0.0.1/a.png", "only https"),
        ("http://example.com/a.png", "only https"),
        ("http://169.254.169.254/latest/meta-data/", "only https"),
        ("https://169.254.169.254/latest/meta-data/", "not public"),
        ("https://127.0.0.1/a.png", "not public"),
        ("https://[::ffff:127.0.0.1]/a.png", "not public"),
        ("https://2130706433/a.png", "not public"),
        ("https://user:pass@example.com/a.png", "user name"),
        ("https://127.0.0.1:22/a.png", "port 443"),
        ("https://[/a.png", "does not resolve"),
        ("/" + "a" * 3000, "longer than 2048"),
    ],
)
def test_redirect_targets_are_checked_like_the_first_url(host: ImageServer, location: str, reason: str) -> None:
    error = fetch_error(host, host.serve("/a.png", redirects(location)))
    assert reason in error.message
    assert not error.retryable
    assert len(host.requests) == 1


def test_redirect_to_a_malformed_url_is_refused(host: ImageServer) -> None:
    assert "connection" in fetch_error(host, host.serve("/a.png", redirects("https://x:y/"))).message


@pytest.mark.parametrize(
    "url", ["https://xn--a/", "https://xn--/a.png", "https://xn--\u0661/", "https://a..b/", "https://" + "a" * 64 + ".example/"]
)
def test_host_that_is_no_name_is_a_permanent_error(host: ImageServer, url: str) -> None:
    assert not fetch_error(host, url).retryable
    assert not fetch_error(host, host.serve("/a.png", redirects(url.encode("ascii", "ignore").decode()))).retryable


@pytest.mark.parametrize(
    "body", [b"[" * 60_000, b'{"statusCode":' * 4_000, b'{"statusCode": ' + b"9" * 50_000 + b"}", b'{"statusCode": 1e999}']
)
def test_error_body_of_storage_is_parsed_within_limits(host: ImageServer, body: bytes) -> None:
    assert "returned HTTP 400" in fetch_error(host, host.serve("/a.png", answers(body, status=400))).message


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_raw_base64_gets_the_advice_to_write_a_data_url(host: ImageServer, format: str) -> None:
    raw = base64.b64encode(image_bytes(format) + bytes(3000)).decode()
    for text in (raw, raw[:900], raw[64:]):
        assert "write `data:image/png;base64,`" in fetch_error(host, text).message


def test_references_of_a_job_share_their_limit_of_pixels(host: ImageServer) -> None:
    budget = PixelBudget(32 * 24)
    reference = Reference.parse("data:image/png;base64," + base64.b64encode(image_bytes()).decode())
    fetcher = Fetcher(Settings(supabase_url=host.url), verify=TLS)
    fetcher.fetch(reference, field="config.mask", user_id="u", budget=budget)
    with pytest.raises(ReferenceImageError, match="more than 768 pixels together"):
        fetcher.fetch(reference, field="config.image", user_id="u", budget=budget)


def test_cookies_are_not_sent_after_a_redirect(host: ImageServer) -> None:
    host.serve("/a.png", answers(image_bytes()))
    fetch(host, host.serve("/1", answers(b"", status=302, headers={"Location": "/a.png", "Set-Cookie": "a=b"})))
    assert "cookie" not in host.requests[1][1]


@pytest.mark.parametrize(
    ("behaviour", "sent"),
    [
        (answers(bytes(20_001)), "more"),
        (answers(b"", headers={"Content-Length": "99000000000"}), "declared"),
        (floods(HTTP + b"Transfer-Encoding: chunked\r\n\r\n", b"3e8\r\n" + bytes(1000) + b"\r\n"), "endless chunks"),
        (floods(HTTP + b"Connection: close\r\n\r\n", bytes(1000)), "endless body"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_download_stops_at_the_size_limit(host: ImageServer, behaviour: Behaviour, sent: str) -> None:
    error = fetch_error(host, host.serve("/a.png", behaviour), reference_max_bytes=20_000)
    assert "more than 20000 bytes" in error.message
    assert not error.retryable


@pytest.mark.parametrize(
    "behaviour",
    [
        drips(HTTP + b"Content-Length: 1000000\r\n\r\n", b"x"),
        drips(HTTP + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        drips(HTTP + b"X-Slow: ", b"x"),
        drips(b"", b"H"),
        drips(HTTP, b""),
        hangs,
    ],
    ids=["body", "chunks", "headers", "invalid", "incomplete", "no response"],
)
def test_slow_host_is_bounded_by_the_deadline(host: ImageServer, behaviour: Behaviour) -> None:
    error = fetch_error(host, host.serve("/a.png", behaviour), reference_deadline=0.4)
    assert error.retryable
    assert "timed out" in error.message or "connection" in error.message


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "GZIP", "identity, gzip"])
def test_compressed_response_is_refused_unread(host: ImageServer, encoding: str) -> None:
    behaviour = floods(HTTP + f"Content-Encoding: {encoding}\r\nConnection: close\r\n\r\n".encode(), b"\x1f\x8b" + bytes(1000))
    assert "encoding" in fetch_error(host, host.serve("/a.png", behaviour)).message


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.com/a.png", "only https"),
        ("HTTP://example.com/a.png", "only https"),
        ("file:///etc/passwd", "only https"),
        ("ftp://example.com/a.png", "only https"),
        ("gopher://example.com/", "only https"),
        ("javascript:alert(1)", "only https"),
        ("https:///a.png", "only https"),
        ("https://example.com:8443/a.png", "port 443"),
        ("https://example.com:22/a.png", "port 443"),
        ("https://user@example.com/a.png", "user name"),
        ("https://example.com\\@127.0.0.1/a.png", "user name"),
        ("https://127.0.0.1/a.png", "not public"),
        ("https://127.1/a.png", "not public"),
        ("https://0x7f.0.0.1/a.png", "not public"),
        ("https://localhost/a.png", "not public"),
        ("https://[::1]/a.png", "not public"),
        ("https://10.0.0.1/a.png", "not public"),
        ("https://168.63.129.16/a.png", "not public"),
        ("https://100.100.100.200/a.png", "not public"),
        ("https://example.com/" + "a" * 2040, "longer than 2048"),
        ("https://example.com:x/", "malformed"),
        ("https://exa\x00mple.com/", "malformed"),
    ],
)
def test_forbidden_urls_are_refused(host: ImageServer, url: str, reason: str) -> None:
    error = fetch_error(host, url)
    assert reason in error.message
    assert not error.retryable


def test_only_allowed_hosts_are_contacted(host: ImageServer) -> None:
    hosts = ("cdn.example",)
    for url in (
        "https://evil.example/a.png",
        "https://cdn.example.evil.example/a.png",
        "https://sub.cdn.example/",
        "https://cdn.example./",
    ):
        assert "not in REFERENCE_ALLOWED_HOSTS" in fetch_error(host, url, reference_allowed_hosts=hosts).message
    assert (
        "not in REFERENCE_ALLOWED_HOSTS"
        in fetch_error(host, host.serve("/1", redirects("https://evil.example/")), reference_allowed_hosts=hosts).message
    )
    assert fetch(host, host.serve("/a.png", answers(image_bytes())), reference_allowed_hosts=hosts).size == (32, 24), (
        "the trusted origin is always allowed"
    )


def test_another_port_of_the_trusted_host_is_another_origin(host: ImageServer) -> None:
    with ImageServer() as other:
        assert "only https" in fetch_error(host, other.serve("/a.png", answers(image_bytes()))).message
        assert other.requests == []


def test_error_message_omits_the_query_string(host: ImageServer) -> None:
    url = host.serve("/a.png", answers(b"", status=403)) + "?token=canary"
    assert "canary" not in fetch_error(host, url).message
    assert "canary" not in fetch_error(host, "https://127.0.0.1/a.png?token=canary").message


@pytest.mark.parametrize("mime", ["image/png", "image/jpeg", "image/webp", "IMAGE/PNG"])
def test_data_url_is_decoded(host: ImageServer, mime: str) -> None:
    assert fetch(host, f"data:{mime};base64," + base64.b64encode(image_bytes()).decode()).size == (32, 24)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("data:text/html;base64,PGI+", "must start with data:image/png"),
        ("data:image/svg+xml;base64,PGI+", "must start with data:image/png"),
        ("data:image/png,abc", "must start with data:image/png"),
        ("data:image/png;base64,***", "not base64"),
        ("data:image/png;base64,QUJ", "not base64"),
        ("data:image/png;base64,größer", "not base64"),
        ("data:image/png;base64,QUJD", "not a PNG"),
        ("data:image/png;base64," + "A" * 28_000, "more than 20000 bytes"),
    ],
)
def test_invalid_data_urls_are_refused(host: ImageServer, url: str, reason: str) -> None:
    assert reason in fetch_error(host, url, reference_max_bytes=20_000).message
