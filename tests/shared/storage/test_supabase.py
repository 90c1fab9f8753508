import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stamina
from pydantic import SecretStr

from shared.errors import UploadError
from shared.settings import Settings, SettingsError
from shared.storage import open_storage
from shared.storage.supabase import SupabaseStorage
from tests.doubles.fake_storage import Fault, FakeStorage, fails_with, hangs, drops_the_response, responds, truncates_the_response

KEY = "canary-service-key"
PNG = b"\x89PNG a picture"


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    with stamina.set_testing(True, attempts=10, cap=True):
        yield


@pytest.fixture
def server() -> Iterator[FakeStorage]:
    with FakeStorage(KEY) as server:
        yield server


def storage_at(server: FakeStorage, *, key: str = KEY, **others: Any) -> SupabaseStorage:
    storage = open_storage(Settings(supabase_url=server.url, supabase_key=SecretStr(key), **others))
    assert isinstance(storage, SupabaseStorage)
    return storage


def uploads(server: FakeStorage) -> int:
    return sum(method == "POST" for method, _ in server.requests)


def test_what_is_stored_is_there_with_its_type_and_its_hash(server: FakeStorage) -> None:
    stored = storage_at(server).put("u/j/0.png", PNG, "image/png")
    found = server.objects["u/j/0.png"]
    assert (found.content, found.content_type) == (PNG, "image/png")
    assert found.metadata == {"sha256": hashlib.sha256(PNG).hexdigest()}
    assert (stored.key, stored.size, stored.sha256) == ("u/j/0.png", len(PNG), hashlib.sha256(PNG).hexdigest())


def test_a_file_is_stored_like_its_bytes(server: FakeStorage, tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(bytes(range(256)) * 9000)
    stored = storage_at(server).put("u/j/0.mp4", tmp_path / "clip", "video/mp4")
    assert server.objects["u/j/0.mp4"].content == (tmp_path / "clip").read_bytes()
    assert stored.size == 2_304_000


def test_the_same_key_is_overwritten(server: FakeStorage) -> None:
    storage = storage_at(server)
    storage.put("u/j/0.png", b"first", "image/png")
    storage.put("u/j/0.png", b"second", "image/png")
    assert server.objects["u/j/0.png"].content == b"second"


def test_every_upload_has_a_connection_of_its_own(server: FakeStorage) -> None:
    storage = storage_at(server)
    for index in range(3):
        storage.put(f"u/j/{index}.png", PNG, "image/png")
    assert server.connections == 3


PASSING: dict[str, Fault] = {
    "429": responds(429, b'{"statusCode": "429", "error": "slow_down", "message": "Slow down"}'),
    "500": responds(500, b'{"statusCode": "500", "error": "Internal", "message": "Internal Server Error"}'),
    "502 with a page": responds(502, b"<html>Bad FakeRunPodAPI</html>", "text/html"),
    "503": responds(503, b""),
    "544": responds(544, b'{"statusCode": "544", "error": "DatabaseTimeout", "message": "timed out"}'),
    "400 that is a 423": fails_with(423),
    "400 that is a 429": fails_with(429),
    "400 that is a 503": fails_with(503),
    "200 with a page": responds(200, b"<html>Welcome</html>", "text/html"),
    "200 without a key": responds(200, b"{}"),
    "an answer that was lost": drops_the_response,
    "an answer that was cut": truncates_the_response,
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_a_failure_that_passes_is_survived(server: FakeStorage, fault: Fault) -> None:
    server.fail(fault, fault)
    storage_at(server).put("u/j/0.png", PNG, "image/png")
    assert {key: found.content for key, found in server.objects.items()} == {"u/j/0.png": PNG}
    assert uploads(server) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 415])
def test_a_refusal_is_believed_at_once_by_the_status_in_its_body(server: FakeStorage, status: int) -> None:
    server.fail(fails_with(status))
    with pytest.raises(UploadError, match="could not be stored") as caught:
        storage_at(server).put("u/j/0.png", PNG, "image/png")
    assert not caught.value.retryable
    assert uploads(server) == 1
    assert "at the moment not" not in caught.value.message, "the service's own words stay here"


def test_a_bucket_that_refuses_a_type_is_named_as_the_cause(server: FakeStorage) -> None:
    server.mime_types = ["image/webp"]
    with pytest.raises(UploadError, match="does not allow this type of file") as caught:
        storage_at(server).put("u/j/0.png", PNG, "image/png")
    assert not caught.value.retryable
    assert server.objects == {}


def test_storage_that_stays_away_is_asked_six_times(server: FakeStorage) -> None:
    server.fail(*[fails_with(503)] * 20)
    with pytest.raises(UploadError, match="503") as caught:
        storage_at(server).put("u/j/0.png", PNG, "image/png")
    assert caught.value.retryable
    assert uploads(server) == 6


def test_storage_that_hangs_costs_no_more_than_the_deadline(server: FakeStorage) -> None:
    server.fail(hangs)
    with pytest.raises(UploadError, match="did not answer in time") as caught:
        storage_at(server, upload_deadline=0.4).put("u/j/0.png", PNG, "image/png")
    assert caught.value.retryable
    assert server.objects == {}


def test_a_job_that_has_less_time_left_waits_less(server: FakeStorage) -> None:
    server.fail(hangs)
    with pytest.raises(UploadError, match="did not answer in time"):
        storage_at(server).put("u/j/0.png", PNG, "image/png", seconds=0.4)


def test_storage_that_is_gone_is_an_upload_error() -> None:
    with FakeStorage(KEY) as server:
        storage = storage_at(server)
    with pytest.raises(UploadError, match="connection to storage failed") as caught:
        storage.put("u/j/0.png", PNG, "image/png")
    assert caught.value.retryable


def test_the_key_never_follows_a_redirect(server: FakeStorage) -> None:
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


def test_many_threads_may_upload_at_once(server: FakeStorage) -> None:
    storage = storage_at(server)
    threads = [threading.Thread(target=storage.put, args=(f"u/j/{i}.png", bytes([i]) * 9000, "image/png")) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key: found.content for key, found in server.objects.items()} == {f"u/j/{i}.png": bytes([i]) * 9000 for i in range(12)}


@pytest.mark.parametrize("key", ["u//0.png", "u/../v/0.png", "u/j/0.png?x=1", "u/%2e%2e/0.png", "0.png"])
def test_a_key_that_was_not_built_by_object_key_never_leaves_the_worker(server: FakeStorage, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        storage_at(server).put(key, PNG, "image/png")
    assert server.requests == []


def test_the_check_passes_for_a_bucket_that_takes_results(server: FakeStorage) -> None:
    server.mime_types, server.size_limit = ["image/*", "video/mp4"], 50_000_000
    storage_at(server).check()
    assert server.requests == [("GET", "/storage/v1/bucket/workspace-temp")]


def test_the_check_survives_a_failure_that_passes(server: FakeStorage) -> None:
    server.fail(responds(503, b""))
    storage_at(server).check()


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"key": "wrong"}, "set SUPABASE_SERVICE_ROLE_KEY"),
        ({"storage_bucket": "elsewhere"}, "create the bucket elsewhere or name another in STORAGE_BUCKET"),
    ],
)
def test_the_check_says_what_to_do(server: FakeStorage, changes: dict[str, Any], advice: str) -> None:
    with pytest.raises(SettingsError, match=advice):
        storage_at(server, **changes).check()


def test_the_check_names_types_that_the_bucket_does_not_allow(server: FakeStorage) -> None:
    server.mime_types = ["image/*"]
    with pytest.raises(SettingsError, match="does not allow video/mp4, application/json"):
        storage_at(server, store_callback=True).check()


def test_the_check_finds_a_size_limit_that_is_too_small(server: FakeStorage) -> None:
    server.size_limit = 1_000_000
    with pytest.raises(SettingsError, match="allows files of 1000000 bytes"):
        storage_at(server).check()


def test_the_check_finds_storage_that_is_not_there() -> None:
    with FakeStorage(KEY) as server:
        storage = storage_at(server)
    with pytest.raises(SettingsError, match="see that SUPABASE_URL is right"):
        storage.check()


def test_callbacks_are_kept_only_where_the_operator_says_so(server: FakeStorage) -> None:
    assert not storage_at(server).keeps_callbacks
    assert storage_at(server, store_callback=True).keeps_callbacks


def test_nothing_that_is_shown_holds_the_key(server: FakeStorage, capfd: pytest.CaptureFixture[str]) -> None:
    storage = storage_at(server)
    server.fail(fails_with(503), responds(502, json.dumps({"echo": KEY}).encode()), fails_with(403))
    with pytest.raises(UploadError) as caught:
        storage.put("u/j/0.png", PNG, "image/png")
    shown = repr(storage) + repr(vars(storage)) + str(caught.value) + "".join(capfd.readouterr())
    assert KEY not in shown
    assert "retry_scheduled" in shown, "the retries were logged"
