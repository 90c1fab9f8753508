"""Storage in an S3-compatible bucket, against a real server behind a proxy that injects faults."""

from __future__ import annotations

import hashlib
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from shared.errors import UploadError
from shared.storage import open_storage
from shared.storage.s3 import S3Storage
from tests.doubles.s3_server import (
    KEY_ID,
    SECRET,
    Fault,
    FaultProxy,
    cuts_the_upload,
    damages_the_body,
    drops_the_response,
    fails_with,
    hangs,
    responds,
    trickles,
    truncates_the_response,
)

PNG = b"\x89PNG an image"
IMAGES = ("image/png", "image/webp", "image/jpeg")


def storage_at(proxy: FaultProxy, **others: Any) -> S3Storage:
    storage = open_storage(proxy.settings(**others))
    assert isinstance(storage, S3Storage)
    return storage


def uploads(proxy: FaultProxy) -> int:
    return sum(method == "PUT" for method, _ in proxy.requests)


def download(url: str | None) -> Any:
    assert url is not None
    return urllib.request.urlopen(url, timeout=10)


def test_an_object_is_stored_with_its_size_and_hash(s3: FaultProxy) -> None:
    storage = storage_at(s3)
    stored = storage.put("u/j/0.png", PNG, "image/png")
    assert s3.objects == {"u/j/0.png": PNG}
    assert (stored.key, stored.size, stored.sha256) == ("u/j/0.png", len(PNG), hashlib.sha256(PNG).hexdigest())
    assert storage.sha256("u/j/0.png") == stored.sha256


def test_a_file_is_streamed(s3: FaultProxy, tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(bytes(range(256)) * 9000)
    stored = storage_at(s3).put("u/j/0.mp4", tmp_path / "clip", "video/mp4")
    assert s3.objects == {"u/j/0.mp4": (tmp_path / "clip").read_bytes()}
    assert stored.size == 2_304_000


def test_an_object_is_overwritten_and_may_not_be_cached(s3: FaultProxy) -> None:
    storage = storage_at(s3)
    storage.put("u/j/0.png", b"first", "image/png")
    storage.put("u/j/0.png", b"second", "image/png")
    with download(storage.presigned_url("u/j/0.png")) as response:
        assert response.read() == b"second"
        assert (response.headers["Content-Type"], response.headers["Cache-Control"]) == ("image/png", "no-cache")


TRANSIENT: dict[str, Fault] = {
    "429": responds(429, b"slow down"),
    "503 SlowDown": fails_with(503, "SlowDown"),
    "500 InternalError": fails_with(500, "InternalError"),
    "409 OperationAborted": fails_with(409, "OperationAborted"),
    "400 RequestTimeout": fails_with(400, "RequestTimeout"),
    "400 IncompleteBody": fails_with(400, "IncompleteBody"),
    "502 with an HTML page": responds(502, b"<html>Bad Gateway</html>"),
    "503 without a body": responds(503),
    "200 with an HTML page": responds(200, b"<html>Welcome</html>"),
    "damaged upload": damages_the_body,
    "cut upload": cuts_the_upload,
    "lost response": drops_the_response,
    "truncated response": truncates_the_response,
}


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_a_transient_failure_is_retried(s3: FaultProxy, fault: Fault) -> None:
    s3.fail(fault, fault)
    storage_at(s3).put("u/j/0.png", PNG, "image/png")
    assert s3.objects == {"u/j/0.png": PNG}
    assert uploads(s3) == 3


PERMANENT = {
    "AccessDenied": (403, "may not do this"),
    "InvalidAccessKeyId": (403, "access key id does not exist"),
    "SignatureDoesNotMatch": (403, "secret access key"),
    "ExpiredToken": (400, "has expired"),
    "RequestTimeTooSkewed": (403, "clock of the worker"),
    "AuthorizationHeaderMalformed": (400, "another region"),
    "NoSuchBucket": (404, "bucket does not exist"),
    "EntityTooLarge": (400, "larger than the service allows"),
    "Unknown": (400, "HTTP 400"),
}


@pytest.mark.parametrize("code", PERMANENT)
def test_a_permanent_failure_is_not_retried_and_named(s3: FaultProxy, code: str) -> None:
    status, cause = PERMANENT[code]
    s3.outage = fails_with(status, code)
    with pytest.raises(UploadError, match=cause) as caught:
        storage_at(s3).put("u/j/0.png", PNG, "image/png")
    assert not caught.value.retryable
    assert uploads(s3) == 1


@pytest.mark.parametrize("fault", [hangs, trickles])
def test_the_deadline_bounds_a_whole_request(s3: FaultProxy, fault: Fault) -> None:
    s3.outage = fault
    started = time.monotonic()
    with pytest.raises(UploadError, match="timed out") as caught:
        storage_at(s3, upload_deadline=0.4).put("u/j/0.png", PNG, "image/png")
    assert caught.value.retryable
    with pytest.raises(UploadError, match="timed out"):
        storage_at(s3).put("u/j/0.png", PNG, "image/png", seconds=0.4)
    assert time.monotonic() - started < 30, "less than the deadline of 90 seconds and the read timeout of 60"


def test_unavailable_storage_is_tried_until_the_deadline(s3: FaultProxy) -> None:
    s3.outage = fails_with(503, "SlowDown")
    with pytest.raises(UploadError, match="503") as caught:
        storage_at(s3).put("u/j/0.png", PNG, "image/png")
    assert caught.value.retryable
    assert uploads(s3) == 10


def test_a_refused_connection_is_a_retryable_upload_error(s3: FaultProxy) -> None:
    storage = storage_at(s3, bucket_endpoint_url="http://127.0.0.1:9")
    with pytest.raises(UploadError, match="connection to storage failed") as caught:
        storage.put("u/j/0.png", PNG, "image/png")
    assert caught.value.retryable


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_signed_request_never_follows_a_redirect(s3: FaultProxy, status: int) -> None:
    with FaultProxy(s3.server) as elsewhere:

        def redirect(handler: Any) -> None:
            handler.body()
            handler.answer(status, {"Location": elsewhere.url + handler.path}, b"")

        s3.outage = redirect
        with pytest.raises(UploadError, match=str(status)):
            storage_at(s3).put("u/j/0.png", PNG, "image/png")
        assert elsewhere.requests == []
    assert len(s3.requests) == 1


def test_uploads_are_thread_safe(s3: FaultProxy) -> None:
    storage = storage_at(s3)
    threads = [threading.Thread(target=storage.put, args=(f"u/j/{i}.png", bytes([i]) * 9000, "image/png")) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert s3.objects == {f"u/j/{i}.png": bytes([i]) * 9000 for i in range(12)}


@pytest.mark.parametrize("key", ["u//0.png", "u/../v/0.png", "u/j/0.png?x=1", "u/%2e%2e/0.png", "0.png"])
def test_a_malformed_key_is_never_sent(s3: FaultProxy, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        storage_at(s3).put(key, PNG, "image/png")
    with pytest.raises(ValueError, match="key"):
        storage_at(s3).remove([key])
    assert s3.requests == []


def test_the_folder_of_a_job_is_listed_hashed_and_cleared(s3: FaultProxy) -> None:
    storage, started = storage_at(s3), time.time()
    storage.put("u/j/0.png", PNG, "image/png")
    storage.put("u/j/1.webp", b"other", "image/webp")
    storage.put("u/jj/0.png", PNG, "image/png")
    listed = storage.list_objects("u", "j")
    assert sorted(each.key for each in listed) == ["u/j/0.png", "u/j/1.webp"]
    assert all(started - 1 <= each.modified_at <= time.time() for each in listed)
    assert storage.sha256("u/j/9.png") is None
    storage.remove(["u/j/1.webp", "u/j/9.png"])
    assert sorted(s3.objects) == ["u/j/0.png", "u/jj/0.png"]
    assert storage.list_objects("u", "nothing") == []


def test_an_object_without_metadata_is_hashed_by_its_content(s3: FaultProxy) -> None:
    storage = storage_at(s3)
    storage.put("u/j/0.png", PNG, "image/png")

    def forgets(handler: Any) -> None:
        status, headers, content = handler.forward(handler.body())
        handler.answer(status, {name: value for name, value in headers.items() if "meta" not in name.lower()}, content)

    s3.outage = forgets
    assert storage.sha256("u/j/0.png") == hashlib.sha256(PNG).hexdigest()


@pytest.mark.parametrize("page", [b"<html>Welcome</html>", b"<ListBucketResult><Name>", b""])
def test_a_page_of_a_gateway_is_not_an_empty_folder(s3: FaultProxy, page: bytes) -> None:
    s3.outage = responds(200, page)
    with pytest.raises(UploadError, match=r"invalid response|HTTP 500"):
        storage_at(s3).list_objects("u", "j")


def test_presigned_urls_open_one_object_until_they_expire(s3: FaultProxy) -> None:
    storage = storage_at(s3, bucket_url_expiry=60)
    storage.put("u/j/0.png", PNG, "image/png")
    url = storage.presigned_url("u/j/0.png")
    assert url is not None
    assert "X-Amz-Expires=60" in url
    assert SECRET not in url
    with download(url) as response:
        assert response.read() == PNG
    with pytest.raises(urllib.error.HTTPError, match="403"):
        download(url.replace("0.png", "1.png"))
    assert storage_at(s3, bucket_url_expiry=0).presigned_url("u/j/0.png") is None


def test_no_key_appears_in_a_repr_or_a_log_line(s3: FaultProxy, capfd: pytest.CaptureFixture[str]) -> None:
    storage = storage_at(s3)
    s3.fail(fails_with(503, SECRET), responds(502, SECRET.encode()), fails_with(403, SECRET))
    with pytest.raises(UploadError) as caught:
        storage.put("u/j/0.png", PNG, "image/png")
    shown = repr(storage) + repr(vars(storage)) + str(caught.value) + "".join(capfd.readouterr())
    assert KEY_ID not in shown
    assert SECRET not in shown
    assert "retry_scheduled" in shown, "the retries were logged"
