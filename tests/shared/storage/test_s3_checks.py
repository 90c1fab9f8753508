"""What an S3-compatible bucket refuses is found at the start, and after the first refusal before the work of each job."""

from __future__ import annotations

from typing import Any

import pytest

from shared.errors import UploadError
from shared.settings import SettingsError
from tests.doubles.s3_server import Fault, FaultProxy, drops_the_response, fails_with, passes, responds
from tests.shared.storage.test_s3 import IMAGES, PNG, storage_at


def test_check_tries_all_that_a_job_needs_and_leaves_nothing(s3: FaultProxy) -> None:
    storage_at(s3).check(IMAGES)
    assert [method for method, _ in s3.requests] == ["PUT", "HEAD", "GET", "DELETE"]
    assert s3.objects == {}


def test_check_retries_a_transient_failure(s3: FaultProxy) -> None:
    s3.fail(responds(503))
    storage_at(s3).check(IMAGES)


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"bucket_access_key_id": "unknown"}, "the access key id does not exist. Set BUCKET_ACCESS_KEY_ID"),
        ({"bucket_secret_access_key": "wrong"}, "the secret access key is not the one of the access key id. Set BUCKET_ACCESS_KEY_ID"),
        ({"bucket_name": "elsewhere"}, "the bucket does not exist. Create the bucket elsewhere or set BUCKET_NAME"),
        ({"bucket_endpoint_url": "http://127.0.0.1:9"}, "Check that BUCKET_ENDPOINT_URL is correct"),
    ],
)
def test_check_says_what_to_do(s3: FaultProxy, changes: dict[str, Any], advice: str) -> None:
    with pytest.raises(SettingsError, match=advice):
        storage_at(s3, **changes).check(IMAGES)


@pytest.mark.parametrize(
    ("method", "permission"), [("PUT", "s3:PutObject"), ("HEAD", "s3:GetObject"), ("GET", "s3:ListBucket"), ("DELETE", "s3:DeleteObject")]
)
def test_check_names_the_permission_that_the_key_lacks(s3: FaultProxy, method: str, permission: str) -> None:
    denies = fails_with(403, "AccessDenied")
    s3.outage = lambda handler: denies(handler) if handler.command == method else passes(handler)
    with pytest.raises(SettingsError, match=f"to a key with {permission} on {s3.bucket}"):
        storage_at(s3).check(IMAGES)


def test_a_handler_that_stores_nothing_does_not_query_the_bucket(s3: FaultProxy) -> None:
    storage_at(s3, bucket_name="elsewhere").check(())
    storage_at(s3, bucket_name="elsewhere").ensure_accepts(())
    assert s3.requests == []
    with pytest.raises(SettingsError, match="Create the bucket elsewhere"):
        storage_at(s3, bucket_name="elsewhere", store_callback=True).check(())


@pytest.mark.parametrize(
    ("status", "code"), [(403, "InvalidAccessKeyId"), (400, "ExpiredToken"), (404, "NoSuchBucket"), (401, "Unauthorized")]
)
def test_after_a_refusal_for_good_jobs_are_refused_until_a_probe_succeeds(s3: FaultProxy, status: int, code: str) -> None:
    storage = storage_at(s3)
    s3.outage = fails_with(status, code)
    storage.ensure_accepts(IMAGES)  # nothing is known of it yet
    assert s3.requests == []
    with pytest.raises(UploadError):
        storage.put("u/j/0.png", PNG, "image/png")
    for _ in range(2):
        with pytest.raises(UploadError, match="Nothing was generated") as refused:
            storage.ensure_accepts(IMAGES)
        assert not refused.value.retryable
    assert len(s3.requests) == 3, "one probe for each job, without retries"
    s3.recover()
    storage.ensure_accepts(IMAGES)
    storage.ensure_accepts(IMAGES)
    assert len(s3.requests) == 4


@pytest.mark.parametrize(
    "fault", [fails_with(503, "SlowDown"), fails_with(400, "EntityTooLarge"), drops_the_response], ids=["503", "too large", "lost"]
)
def test_an_outage_or_a_large_file_refuses_no_further_job(s3: FaultProxy, fault: Fault) -> None:
    storage = storage_at(s3)
    s3.outage = fault
    with pytest.raises(UploadError):
        storage.put("u/j/0.png", PNG, "image/png", seconds=0.5)
    before = len(s3.requests)
    storage.ensure_accepts(IMAGES)
    assert len(s3.requests) == before
