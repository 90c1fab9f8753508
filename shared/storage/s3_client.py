"""boto3's S3 client over this project's transport: one deadline for everything, no redirects, no proxies, no retries of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import boto3
import httpx
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.config import Config
from pydantic import SecretStr

from shared.network import Deadline, RequestFailed, guarded_client
from shared.storage_settings import BucketLocation

_CHUNK = 1 << 16
# Signature Version 4 over the body's SHA-256, so that the service refuses a body that was damaged on the way. Only the checksums that every
# service knows: boto3's default is a trailer that many refuse. Path style needs neither DNS nor a certificate for each bucket.
_CONFIG = Config(
    signature_version="s3v4",
    s3={"addressing_style": "path", "payload_signing_enabled": True},
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
    retries={"total_max_attempts": 1},
)
# Of this transport, which waits for no interim response and decodes no content.
_REPLACED_HEADERS = ("expect", "accept-encoding")


class S3Client:
    """A boto3 client. Thread-safe.

    Args:
        location: The service and the region.
        key_id: The access key id.
        secret: The secret access key.
        read_timeout: Maximum seconds of a single read or write.

    Raises:
        botocore.exceptions.BotoCoreError: An AWS variable or file of this machine is invalid.
    """

    def __init__(self, location: BucketLocation, key_id: SecretStr, secret: SecretStr, *, read_timeout: float) -> None:
        self._read_timeout = read_timeout
        self._tls = httpx.create_ssl_context(trust_env=False)
        self._current = threading.local()
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=location.endpoint,
            region_name=location.region,
            aws_access_key_id=key_id.get_secret_value(),
            aws_secret_access_key=secret.get_secret_value(),
            config=_CONFIG,
        )
        # A handler of this event that returns a response takes the place of boto3's own transport.
        self._client.meta.events.register("before-send.s3", self._send)

    @contextmanager
    def within(self, deadline: Deadline) -> Iterator[Any]:
        """Yields the boto3 client, whose calls on this thread end by the deadline."""
        self._current.deadline = deadline
        try:
            yield self._client
        finally:
            del self._current.deadline

    def presigned_url(self, bucket: str, key: str, seconds: int) -> str:
        """Returns a URL that downloads an object without a key. Costs no request."""
        url: str = self._client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=seconds)
        return url

    def _send(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _REPLACED_HEADERS}
        # The operator's own service may have a private address.
        client = guarded_client(
            self._current.deadline, allow_private=lambda host, port: True, verify=self._tls, read_timeout=self._read_timeout
        )
        with client:
            response = client.request(
                request.method, request.url, headers={**headers, "accept-encoding": "identity"}, content=_content(request.body)
            )
        if response.is_redirect:
            # boto3 would ask the bucket for its region, and ask again for that answer, until Python's stack is full.
            reason = f"storage failed, it returned HTTP {response.status_code}, as for a bucket in another region"
            raise RequestFailed(reason, retryable=False, status=response.status_code)
        return AWSResponse(request.url, response.status_code, response.headers, _Body(response.content))


class _Body(BytesIO):
    """A response body as boto3 reads it."""

    def stream(self) -> Iterator[bytes]:
        yield self.read()


def _content(body: Any) -> bytes | Iterator[bytes] | None:
    if body is None or isinstance(body, bytes):
        return body
    return iter(lambda: bytes(body.read(_CHUNK)), b"")
