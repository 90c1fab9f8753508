"""The errors of S3-compatible services: what each means, and whether the same request may succeed later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from shared.network import STORAGE_RETRIES, RequestFailed
from shared.storage.transport_errors import translate_transport_errors

_REFUSED, _ABSENT, _TOO_LARGE, _TRANSIENT = 403, 404, 413, 503

# Codes whose HTTP status is 400 or says too little: the status that they amount to, and their cause.
# Source: the list of error codes in the Amazon S3 API Reference.
_CODES: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "InvalidAccessKeyId": (_REFUSED, "the access key id does not exist"),
        "SignatureDoesNotMatch": (_REFUSED, "the secret access key is not the one of the access key id"),
        "AccessDenied": (_REFUSED, "the worker's key may not do this"),
        "ExpiredToken": (_REFUSED, "the worker's key has expired"),
        "InvalidToken": (_REFUSED, "the worker's key was rejected"),
        "RequestTimeTooSkewed": (_REFUSED, "the clock of the worker is wrong"),
        "AuthorizationHeaderMalformed": (_REFUSED, "the bucket is in another region"),
        "NoSuchBucket": (_ABSENT, "the bucket does not exist"),
        "EntityTooLarge": (_TOO_LARGE, "the file is larger than the service allows"),
        "RequestTimeout": (_TRANSIENT, "the upload was too slow"),
        "IncompleteBody": (_TRANSIENT, "the upload was cut off"),
        "BadDigest": (_TRANSIENT, "the upload was damaged on the way"),
        "XAmzContentSHA256Mismatch": (_TRANSIENT, "the upload was damaged on the way"),
    }
)
_CAUSES: Mapping[int, str] = MappingProxyType({401: "the worker's key was rejected", 403: "the worker's key was rejected"})


@contextmanager
def translate_s3_errors() -> Iterator[None]:
    """Translates errors into messages without the service's own texts, and classifies them as retryable or not."""
    try:
        with translate_transport_errors():
            yield
    except ClientError as error:
        raise _request_failed(error) from None
    except (BotoCoreError, ResponseParserError):
        raise RequestFailed("storage sent an invalid response", retryable=True) from None


def advice(status: int | None, *, bucket: str, permission: str) -> str:
    """Returns what the operator can do about an error of the start check.

    Args:
        status: Of the `RequestFailed`.
        bucket: The bucket's name.
        permission: What the request needed, by its name in policies.
    """
    if status in (401, 403):
        key = "BUCKET_ACCESS_KEY_ID and BUCKET_SECRET_ACCESS_KEY"
        return f"Set {key} to a key with {permission} on {bucket}, and BUCKET_REGION to its region."
    if status == _ABSENT:
        return f"Create the bucket {bucket} or set BUCKET_NAME to another."
    return "Check that BUCKET_ENDPOINT_URL is correct and that the service is running."


def _request_failed(error: ClientError) -> RequestFailed:
    details = error.response
    actual = int(details.get("ResponseMetadata", {}).get("HTTPStatusCode") or 500)
    status, cause = _CODES.get(details.get("Error", {}).get("Code", ""), (actual, _CAUSES.get(actual, f"it returned HTTP {actual}")))
    return RequestFailed(f"storage failed, {cause}", retryable=STORAGE_RETRIES.retries_status(status), status=status)
