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
from shared.settings import Settings
from tests.doubles.reference_host import Behaviour, ReferenceHost, answers, drips, hangs, pours, redirects, resets, stops_short

FIELD = "metadata.reference_image_url"
HTTP = b"HTTP/1.1 200 OK\r\n"
TLS = ssl.create_default_context()


def picture(format: str = "PNG") -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (32, 24), (200, 100, 50)).save(buffer, format)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    with stamina.set_testing(True, attempts=10, cap=True):
        yield


@pytest.fixture
def host() -> Iterator[ReferenceHost]:
    with ReferenceHost() as host:
        yield host


def fetch(host: ReferenceHost, url: str, **others: Any) -> Image.Image:
    """Fetches as the operator whose own origin the host is: the one place where loopback and plain http are fine."""
    return Fetcher(Settings(supabase_url=host.url, **others), verify=TLS).fetch(Reference.parse(url), field=FIELD, user_id="u")


def refusal(host: ReferenceHost, url: str, **others: Any) -> ReferenceImageError:
    with pytest.raises(ReferenceImageError) as caught:
        fetch(host, url, **others)
    assert caught.value.message.startswith(f"{FIELD}: the reference cannot be used: ")
    return caught.value


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_fetched_whatever_its_name_says(host: ReferenceHost, format: str) -> None:
    image = fetch(host, host.serve("/picture.txt", answers(picture(format), headers={"Content-Type": "text/plain"})))
    assert (image.mode, image.size) == ("RGB", (32, 24))


def test_the_request_tells_nothing_and_asks_for_bytes_as_they_are(host: ReferenceHost) -> None:
    fetch(host, host.serve("/a.png", answers(picture())) + "?x=1", supabase_key="canary-key")
    ((path, headers),) = host.requests
    assert path == "/a.png?x=1"
    assert headers["accept-encoding"] == "identity"
    assert not {"authorization", "apikey", "cookie", "referer"} & headers.keys()


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_failure_that_passes_is_survived(host: ReferenceHost, status: int) -> None:
    failure = answers(b"not now", status=status)
    assert fetch(host, host.serve("/a.png", failure, failure, answers(picture()))).size == (32, 24)


@pytest.mark.parametrize("failure", [resets, stops_short(picture())])
def test_a_connection_that_breaks_is_tried_again(host: ReferenceHost, failure: Behaviour) -> None:
    assert fetch(host, host.serve("/a.png", failure, answers(picture()))).size == (32, 24)


@pytest.mark.parametrize(
    ("failure", "reason"), [(answers(b"", status=503), "503"), (resets, "connection"), (stops_short(b"x"), "connection")]
)
def test_a_host_that_keeps_failing_is_tried_three_times_and_may_be_better_later(
    host: ReferenceHost, failure: Behaviour, reason: str
) -> None:
    error = refusal(host, host.serve("/a.png", failure))
    assert error.retryable
    assert reason in error.message
    assert len(host.requests) == 3


@pytest.mark.parametrize("status", [201, 204, 206, 304, 400, 401, 403, 404, 410])
def test_any_other_answer_is_final_and_is_named(host: ReferenceHost, status: int) -> None:
    error = refusal(host, host.serve("/a.png", answers(b"", status=status)))
    assert not error.retryable
    assert f"answered with {status}" in error.message
    assert len(host.requests) == 1


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"GIF89a", picture()[:60]])
def test_what_is_no_picture_is_refused_for_good(host: ReferenceHost, content: bytes) -> None:
    assert not refusal(host, host.serve("/a.png", answers(content, headers={"Content-Type": "image/png"}))).retryable


def test_redirects_are_followed_three_times(host: ReferenceHost) -> None:
    host.serve("/a.png", answers(picture()))
    host.serve("/1", redirects("/a.png"))
    host.serve("/2", redirects("/1", status=301))
    assert fetch(host, host.serve("/3", redirects(host.url + "/2", status=307))).size == (32, 24)
    assert "more than 3 times" in refusal(host, host.serve("/4", redirects("/3"))).message
    assert "more than 3 times" in refusal(host, host.serve("/loop", redirects("/loop"))).message


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
        ("https://[/a.png", "not known"),
        ("/" + "a" * 3000, "longer than 2048"),
    ],
)
def test_a_redirect_is_judged_like_the_first_url(host: ReferenceHost, location: str, reason: str) -> None:
    error = refusal(host, host.serve("/a.png", redirects(location)))
    assert reason in error.message
    assert not error.retryable
    assert len(host.requests) == 1


def test_a_redirect_to_what_is_no_url_is_refused(host: ReferenceHost) -> None:
    assert "connection" in refusal(host, host.serve("/a.png", redirects("https://x:y/"))).message


def test_a_cookie_goes_nowhere(host: ReferenceHost) -> None:
    host.serve("/a.png", answers(picture()))
    fetch(host, host.serve("/1", answers(b"", status=302, headers={"Location": "/a.png", "Set-Cookie": "a=b"})))
    assert "cookie" not in host.requests[1][1]


@pytest.mark.parametrize(
    ("behaviour", "sent"),
    [
        (answers(bytes(20_001)), "more"),
        (answers(b"", headers={"Content-Length": "99000000000"}), "announced"),
        (pours(HTTP + b"Transfer-Encoding: chunked\r\n\r\n", b"3e8\r\n" + bytes(1000) + b"\r\n"), "chunks without end"),
        (pours(HTTP + b"Connection: close\r\n\r\n", bytes(1000)), "bytes without end"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_more_bytes_are_taken_than_allowed(host: ReferenceHost, behaviour: Behaviour, sent: str) -> None:
    error = refusal(host, host.serve("/a.png", behaviour), reference_max_bytes=20_000)
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
    ids=["body", "chunks", "headers", "nonsense", "half an answer", "nothing"],
)
def test_a_host_that_drips_costs_no_more_than_the_deadline(host: ReferenceHost, behaviour: Behaviour) -> None:
    error = refusal(host, host.serve("/a.png", behaviour), reference_deadline=0.4)
    assert error.retryable
    assert "in time" in error.message or "connection" in error.message


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "GZIP", "identity, gzip"])
def test_an_encoded_answer_is_refused_unread(host: ReferenceHost, encoding: str) -> None:
    behaviour = pours(HTTP + f"Content-Encoding: {encoding}\r\nConnection: close\r\n\r\n".encode(), b"\x1f\x8b" + bytes(1000))
    assert "encoding" in refusal(host, host.serve("/a.png", behaviour)).message


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
def test_a_url_that_leads_where_it_may_not_is_refused(host: ReferenceHost, url: str, reason: str) -> None:
    error = refusal(host, url)
    assert reason in error.message
    assert not error.retryable


def test_only_the_hosts_that_the_operator_allows_are_contacted(host: ReferenceHost) -> None:
    hosts = ("cdn.example",)
    for url in (
        "https://evil.example/a.png",
        "https://cdn.example.evil.example/a.png",
        "https://sub.cdn.example/",
        "https://cdn.example./",
    ):
        assert "not one of those that the operator allows" in refusal(host, url, reference_allowed_hosts=hosts).message
    assert "operator allows" in refusal(host, host.serve("/1", redirects("https://evil.example/")), reference_allowed_hosts=hosts).message
    assert fetch(host, host.serve("/a.png", answers(picture())), reference_allowed_hosts=hosts).size == (32, 24), "the own origin always is"


def test_another_port_of_the_own_host_is_not_the_own_origin(host: ReferenceHost) -> None:
    with ReferenceHost() as other:
        assert "only https" in refusal(host, other.serve("/a.png", answers(picture()))).message
        assert other.requests == []


def test_the_message_never_shows_the_query(host: ReferenceHost) -> None:
    url = host.serve("/a.png", answers(b"", status=403)) + "?token=canary"
    assert "canary" not in refusal(host, url).message
    assert "canary" not in refusal(host, "https://127.0.0.1/a.png?token=canary").message


@pytest.mark.parametrize("mime", ["image/png", "image/jpeg", "image/webp", "IMAGE/PNG"])
def test_a_data_url_is_opened_like_any_picture(host: ReferenceHost, mime: str) -> None:
    assert fetch(host, f"data:{mime};base64," + base64.b64encode(picture()).decode()).size == (32, 24)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("data:text/html;base64,PGI+", "must begin with data:image/png"),
        ("data:image/svg+xml;base64,PGI+", "must begin with data:image/png"),
        ("data:image/png,abc", "must begin with data:image/png"),
        ("data:image/png;base64,***", "not base64"),
        ("data:image/png;base64,QUJ", "not base64"),
        ("data:image/png;base64,größer", "not base64"),
        ("data:image/png;base64,QUJD", "not a PNG"),
        ("data:image/png;base64," + "A" * 28_000, "more than 20000 bytes"),
    ],
)
def test_a_data_url_that_cannot_be_used_is_refused(host: ReferenceHost, url: str, reason: str) -> None:
    assert reason in refusal(host, url, reference_max_bytes=20_000).message
