"""What a bucket refuses for good is found at the start, before a job's work, and again after the first refusal."""

from __future__ import annotations

import pytest

from shared.errors import UploadError
from shared.settings import SettingsError
from tests.doubles.fake_storage import FakeStorage, Fault, drops_the_response, fails_with, responds
from tests.shared.storage.test_supabase import IMAGES, PNG, storage_at, uploads


@pytest.mark.parametrize(("stored", "allowed"), [(IMAGES, ["image/*"]), (("video/mp4", "image/webp"), ["video/mp4", "image/webp"])])
def test_check_asks_only_for_what_the_handler_stores(server: FakeStorage, stored: tuple[str, ...], allowed: list[str]) -> None:
    server.mime_types = allowed
    storage_at(server).check(stored)
    server.mime_types = ["text/plain"]
    with pytest.raises(SettingsError, match=f"does not allow {', '.join(stored)}"):
        storage_at(server).check(stored)


def test_a_handler_that_stores_nothing_does_not_query_the_bucket(server: FakeStorage) -> None:
    storage_at(server, storage_bucket="elsewhere").check(())
    storage_at(server, storage_bucket="elsewhere").ensure_accepts(())
    assert server.requests == []
    with pytest.raises(SettingsError, match="Create the bucket elsewhere"):
        storage_at(server, storage_bucket="elsewhere", store_callback=True).check(())


def test_a_type_that_the_bucket_refuses_is_found_before_the_work(server: FakeStorage) -> None:
    server.mime_types = ["video/mp4", "image/*"]
    storage = storage_at(server)
    storage.ensure_accepts(["video/mp4", "image/gif"])
    with pytest.raises(UploadError, match="does not allow video/webm") as refused:
        storage.ensure_accepts(["video/mp4", "video/webm"])
    assert not refused.value.retryable
    server.mime_types.append("video/webm")
    storage.ensure_accepts(["video/webm"])
    assert uploads(server) == 0


def test_a_bucket_that_allows_everything_needed_is_queried_once(server: FakeStorage) -> None:
    storage = storage_at(server)
    for _ in range(3):
        storage.ensure_accepts(IMAGES)
    assert server.requests == [("GET", "/storage/v1/bucket/workspace-temp")]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_after_a_refusal_for_good_jobs_are_refused_until_a_probe_succeeds(server: FakeStorage, status: int) -> None:
    storage = storage_at(server)
    storage.ensure_accepts(IMAGES)
    server.outage = fails_with(status)
    storage.ensure_accepts(IMAGES)  # nothing is known of it yet
    with pytest.raises(UploadError):
        storage.put("u/j/0.png", PNG, "image/png")
    before = len(server.requests)
    for _ in range(2):
        with pytest.raises(UploadError, match="Nothing was generated") as refused:
            storage.ensure_accepts(IMAGES)
        assert not refused.value.retryable
    assert len(server.requests) == before + 2, "one probe for each job, without retries"
    server.outage = None
    storage.ensure_accepts(IMAGES)
    storage.ensure_accepts(IMAGES)
    assert len(server.requests) == before + 3


def test_after_a_refusal_a_probe_that_meets_a_fault_is_retried(server: FakeStorage) -> None:
    storage = storage_at(server)
    server.outage = fails_with(401)
    with pytest.raises(UploadError):
        storage.put("u/j/0.png", PNG, "image/png")
    server.outage = None
    server.fail(fails_with(503), drops_the_response)
    storage.ensure_accepts(IMAGES)
    assert len(server.requests) == 1 + 3, "the upload, and a probe with two retries"


def test_a_type_that_the_bucket_loses_is_refused_from_the_second_job_on(server: FakeStorage) -> None:
    storage = storage_at(server)
    storage.ensure_accepts(["image/png"])
    server.mime_types = ["image/webp"]
    with pytest.raises(UploadError, match="does not allow this MIME type"):
        storage.put("u/j/0.png", PNG, "image/png")
    with pytest.raises(UploadError, match="does not allow image/png"):
        storage.ensure_accepts(["image/png", "image/webp"])
    storage.ensure_accepts(["image/webp"])


@pytest.mark.parametrize(
    "fault", [fails_with(503), fails_with(413), responds(502, b"<html>"), drops_the_response], ids=["503", "413", "502", "lost"]
)
def test_an_outage_or_a_large_file_refuses_no_further_job(server: FakeStorage, fault: Fault) -> None:
    storage = storage_at(server)
    server.outage = fault
    with pytest.raises(UploadError):
        storage.put("u/j/0.png", PNG, "image/png", seconds=1.0)
    server.outage = fails_with(503)
    storage.ensure_accepts(IMAGES)
