"""Storage in a Supabase bucket, against a fake of the service."""

import hashlib
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from shared.errors import UploadError
from shared.settings import Settings, SettingsError
from shared.storage import open_storage
from shared.storage.supabase import SupabaseStorage
from tests.doubles.fake_storage import FakeStorage, Fault, drops_the_response, fails_with, hangs, responds, truncates_the_response
from tests.shared.storage.conftest import KEY

PNG = b"\x89PNG an image"
IMAGES = ("image/png", "image/webp", "image/jpeg")


def storage_at(server: FakeStorage, *, key: str = KEY, **others: Any) -> SupabaseStorage:
    storage = open_storage(Settings(supabase_url=server.url, supabase_key=SecretStr(key), **others))
    assert isinstance(storage, SupabaseStorage)
    return storage


def uploads(server: FakeStorage) -> int:
    return sum(method == "POST" for method, _ in server.requests)


def test_upload_stores_content_type_and_hash(server: FakeStorage) -> None:
    stored = storage_at(server).put("u/j/0.png", PNG, "image/png")
    found = server.objects["u/j/0.png"]
    assert (found.content, found.content_type) == (PNG, "image/png")
    assert found.metadata == {"sha256": hashlib.sha256(PNG).hexdigest()}
    assert (stored.key, stored.size, stored.sha256) == ("u/j/0.png", len(PNG), hashlib.sha256(PNG).hexdigest())


def test_file_content_is_streamed(server: FakeStorage, tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(bytes(range(256)) * 9000)
    stored = storage_at(server).put("u/j/0.mp4", tmp_path / "clip", "video/mp4")
    assert server.objects["u/j/0.mp4"].content == (tmp_path / "clip").read_bytes()
    assert stored.size == 2_304_000


def test_put_overwrites_an_existing_object(server: FakeStorage) -> None:
    storage = storage_at(server)
    storage.put("u/j/0.png", b"first", "image/png")
    storage.put("u/j/0.png", b"second", "image/png")
    assert server.objects["u/j/0.png"].content == b"second"


def test_every_upload_opens_a_new_connection(server: FakeStorage) -> None:
    storage = storage_at(server)
    for index in range(3):
        storage.put(f"u/j/{index}.png", PNG, "image/png")
    assert server.connections == 3


TRANSIENT: dict[str, Fault] = {
    "429": responds(429, b'{"statusCode": "429", "error": "slow_down", "message": "Slow down"}'),
    "500": responds(500, b'{"statusCode": "500", "error": "Internal", "message": "Internal Server Error"}'),
    "502 with an HTML page": responds(502, b"<html>Bad Gateway</html>", "text/html"),
    "503": responds(503, b""),
    "544": responds(544, b'{"statusCode": "544", "error": "DatabaseTimeout", "message": "timed out"}'),
    "400 with status 423": fails_with(423),
    "400 with status 429": fails_with(429),
    "400 with status 503": fails_with(503),
    "200 with an HTML page": responds(200, b"<html>Welcome</html>", "text/html"),
    "200 without a key": responds(200, b"{}"),
    "lost response": drops_the_response,
    "truncated response": truncates_the_response,
}


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_transient_failure_is_retried(server: FakeStorage, fault: Fault) -> None:
    server.fail(fault, fault)
    storage_at(server).put("u/j/0.png", PNG, "image/png")
    assert {key: found.content for key, found in server.objects.items()} == {"u/j/0.png": PNG}
    assert uploads(server) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 415])
def test_permanent_status_in_the_body_is_not_retried(server: FakeStorage, status: int) -> None:
    server.fail(fails_with(status))
    with pytest.raises(UploadError, match="could not be stored") as caught:
        storage_at(server).put("u/j/0.png", PNG, "image/png")
    assert not caught.value.retryable
    assert uploads(server) == 1
    assert "at the moment not" not in caught.value.message, "the service's own message is not passed on"


def test_rejected_mime_type_is_reported(server: FakeStorage) -> None:
    server.mime_types = ["image/webp"]
    with pytest.raises(UploadError, match="does not allow this MIME type") as caught:
        storage_at(server).put("u/j/0.png", PNG, "image/png")
    assert not caught.value.retryable
    assert server.objects == {}


def test_unavailable_storage_is_tried_until_the_deadline(server: FakeStorage) -> None:
    server.fail(*[fails_with(503)] * 20)
    with pytest.raises(UploadError, match="503") as caught:
        storage_at(server).put("u/j/0.png", PNG, "image/png")
    assert caught.value.retryable
    assert uploads(server) == 10


def test_hanging_storage_is_bounded_by_the_deadline(server: FakeStorage) -> None:
    server.fail(hangs)
    with pytest.raises(UploadError, match="timed out") as caught:
        storage_at(server, upload_deadline=0.4).put("u/j/0.png", PNG, "image/png")
    assert caught.value.retryable
    assert server.objects == {}


def test_jobs_remaining_time_shortens_the_deadline(server: FakeStorage) -> None:
    server.fail(hangs)
    with pytest.raises(UploadError, match="timed out"):
        storage_at(server).put("u/j/0.png", PNG, "image/png", seconds=0.4)


def test_refused_connection_is_a_retryable_upload_error() -> None:
    with FakeStorage(KEY) as server:
        storage = storage_at(server)
    with pytest.raises(UploadError, match="connection to storage failed") as caught:
        storage.put("u/j/0.png", PNG, "image/png")
    assert caught.value.retryable


def test_service_key_never_follows_a_redirect(server: FakeStorage) -> None:
    with FakeStorage(KEY) as elsewhere:

        def redirect(handler: Any) -> None:
            handler.read_body()
            handler.send_response(307)
            handler.send_header("Location", elsewhere.url + handler.path)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        server.fail(redirect)
        with pytest.raises(UploadError, match="307"):
            storage_at(server).put("u/j/0.png", PNG, "image/png")
        assert elsewhere.requests == []


def test_uploads_are_thread_safe(server: FakeStorage) -> None:
    storage = storage_at(server)
    threads = [threading.Thread(target=storage.put, args=(f"u/j/{i}.png", bytes([i]) * 9000, "image/png")) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key: found.content for key, found in server.objects.items()} == {f"u/j/{i}.png": bytes([i]) * 9000 for i in range(12)}


@pytest.mark.parametrize("key", ["u//0.png", "u/../v/0.png", "u/j/0.png?x=1", "u/%2e%2e/0.png", "0.png"])
def test_malformed_key_is_never_sent(server: FakeStorage, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        storage_at(server).put(key, PNG, "image/png")
    assert server.requests == []


def test_check_accepts_a_suitable_bucket(server: FakeStorage) -> None:
    server.mime_types, server.size_limit = ["image/*", "video/mp4"], 50_000_000
    storage_at(server).check(IMAGES)
    assert server.requests == [("GET", "/storage/v1/bucket/workspace-temp")]


def test_check_retries_a_transient_failure(server: FakeStorage) -> None:
    server.fail(responds(503, b""))
    storage_at(server).check(IMAGES)


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"key": "wrong"}, "Set SUPABASE_SERVICE_ROLE_KEY"),
        ({"storage_bucket": "elsewhere"}, "Create the bucket elsewhere or set STORAGE_BUCKET to another"),
    ],
)
def test_check_says_what_to_do(server: FakeStorage, changes: dict[str, Any], advice: str) -> None:
    with pytest.raises(SettingsError, match=advice):
        storage_at(server, **changes).check(IMAGES)


def test_check_lists_mime_types_that_the_bucket_rejects(server: FakeStorage) -> None:
    server.mime_types = ["image/*"]
    with pytest.raises(SettingsError, match="does not allow video/mp4, application/json"):
        storage_at(server, store_callback=True).check([*IMAGES, "video/mp4"])


def test_an_overwritten_object_may_not_be_cached(server: FakeStorage) -> None:
    storage_at(server).put("u/j/0.png", PNG, "image/png")
    assert server.objects["u/j/0.png"].cache_control == "0"


def test_the_folder_of_a_job_is_listed_hashed_and_cleared(server: FakeStorage) -> None:
    storage, started = storage_at(server), time.time()
    storage.put("u/j/0.png", PNG, "image/png")
    storage.put("u/j/1.webp", b"other", "image/webp")
    storage.put("u/other/0.png", PNG, "image/png")
    listed = storage.list_objects("u", "j")
    assert sorted(each.key for each in listed) == ["u/j/0.png", "u/j/1.webp"]
    assert all(started - 1 <= each.modified_at <= time.time() for each in listed)
    assert storage.sha256("u/j/0.png") == hashlib.sha256(PNG).hexdigest()
    assert storage.sha256("u/j/9.png") is None
    storage.remove(["u/j/1.webp", "u/j/9.png"])
    assert sorted(server.objects) == ["u/j/0.png", "u/other/0.png"]


def test_check_reports_a_file_size_limit_that_is_too_small(server: FakeStorage) -> None:
    server.size_limit = 1_000_000
    with pytest.raises(SettingsError, match="allows files of 1000000 bytes"):
        storage_at(server).check(IMAGES)


def test_check_reports_unreachable_storage() -> None:
    with FakeStorage(KEY) as server:
        storage = storage_at(server)
    with pytest.raises(SettingsError, match="Check that SUPABASE_URL is correct"):
        storage.check(IMAGES)


def test_storing_callbacks_is_opt_in(server: FakeStorage) -> None:
    assert not storage_at(server).keeps_callbacks
    assert storage_at(server, store_callback=True).keeps_callbacks


def test_service_key_appears_in_no_repr_or_log_line(server: FakeStorage, capfd: pytest.CaptureFixture[str]) -> None:
    storage = storage_at(server)
    server.fail(fails_with(503), responds(502, json.dumps({"echo": KEY}).encode()), fails_with(403))
    with pytest.raises(UploadError) as caught:
        storage.put("u/j/0.png", PNG, "image/png")
    shown = repr(storage) + repr(vars(storage)) + str(caught.value) + "".join(capfd.readouterr())
    assert KEY not in shown
    assert "retry_scheduled" in shown, "the retries were logged"
