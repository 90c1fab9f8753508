"""Downloads untrusted reference images behind an SSRF guard.

A reference is a URL, a `data:` URL or a path in the project's storage. URLs are fetched over https from port 443 of public addresses, and
only from `REFERENCE_ALLOWED_HOSTS` if that is set. The origin of `SUPABASE_URL` is trusted: its scheme, port and address are exempt from
these rules. A URL there is still fetched without the service key, because a caller could name any object; only storage paths, whose owner
is checked, are fetched with it.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import quote

import httpx
from PIL import Image

from shared.contract.references import Reference
from shared.credentials import auth_headers
from shared.errors import ReferenceImageError
from shared.media.containers import UnreadableImage
from shared.media.images import PixelBudget, open_image
from shared.network import (
    REFERENCE_RETRIES,
    Deadline,
    HostRefused,
    RequestFailed,
    Resolver,
    configured_origin,
    guarded_client,
    origin,
    retrying,
)
from shared.settings import Settings

_MAX_REDIRECTS = 3
_MAX_URL_LENGTH = 2048
_MAX_ERROR_BYTES = 64 * 1024
_DATA_URL = re.compile(r"data:image/(?:png|jpeg|webp);base64,", re.IGNORECASE)
# The first bytes of PNG, JPEG and WebP files in base64, or text without the dot of a file's extension and too long for a path.
_RAW_BASE64 = re.compile(r"iVBORw0KGgo|/9j/|UklGR|[A-Za-z0-9+/=\r\n_-]{1025}")
# The characters that Supabase Storage allows in keys, without those that need escaping on disk or could be read as an escape.
_SEGMENT = re.compile(r"[A-Za-z0-9_!.*'() &$=@;:+,-]{1,255}")


class Fetcher:
    """Fetches references. Thread-safe.

    Args:
        settings: The project's storage, the allowed hosts, and the limits of time and size.
        resolve: The resolver.
        verify: The trusted certificates; by default those of the public authorities.

    Raises:
        SettingsError: `SUPABASE_URL` is not a valid URL.
    """

    def __init__(self, settings: Settings, *, resolve: Resolver = socket.getaddrinfo, verify: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._resolve = resolve
        self._tls = verify or httpx.create_ssl_context(trust_env=False)
        self._supabase = configured_origin("SUPABASE_URL", settings.supabase_url)

    def fetch(
        self, reference: Reference, *, field: str, user_id: str | None, seconds: float = math.inf, budget: PixelBudget | None = None
    ) -> Image.Image:
        """Fetches and decodes a reference.

        Args:
            reference: The reference.
            field: Its path in the request, for the error message.
            user_id: The job's user. Storage paths must be in this user's folder.
            seconds: A shorter time limit than `REFERENCE_DEADLINE`.
            budget: The pixels that the references of the job may have together.

        Returns:
            An RGB image within the limits of `shared.media.images.open_image`.

        Raises:
            ReferenceImageError: It cannot be fetched, decoded or used. Retryable if its host failed or timed out.
        """
        try:
            deadline = Deadline(min(self._settings.reference_deadline, seconds))
            content = self._content(reference, user_id, deadline)
            return open_image(content, mask=reference.is_mask, budget=budget, seconds=deadline.remaining)
        except (RequestFailed, UnreadableImage) as error:
            retryable = isinstance(error, RequestFailed) and error.retryable
            raise ReferenceImageError(f"`{field}` cannot be used: {error}.", retryable=retryable) from None
        except TimeoutError:
            raise ReferenceImageError(f"`{field}` cannot be used: the worker was busy with other images.", retryable=True) from None

    def _content(self, reference: Reference, user_id: str | None, deadline: Deadline) -> bytes:
        if reference.kind == "data":
            return _decode_data_url(reference.value, self._settings.reference_max_bytes)
        if reference.kind == "url":
            return self._download(reference.value, deadline)
        if _RAW_BASE64.match(reference.value):
            raise RequestFailed(
                "it is base64 without a prefix; write `data:image/png;base64,` (or jpeg, or webp) before it", retryable=False
            )
        bucket, key = _owned_object(reference.value, user_id, self._settings.storage_bucket)
        if bucket not in self._settings.reference_buckets:
            raise RequestFailed("its bucket is not in REFERENCE_BUCKETS", retryable=False)
        if self._settings.supabase_url is None:
            return self._read_from_disk(bucket, key)
        return self._download_object(bucket, key, deadline)

    def _download_object(self, bucket: str, key: str, deadline: Deadline) -> bytes:
        secret = self._settings.supabase_key
        if secret is None:
            raise RequestFailed("the worker has no service key for the project's storage", retryable=False)
        url = f"{self._settings.supabase_url}/storage/v1/object/authenticated/{quote(bucket)}/{quote(key)}"
        return self._download(url, deadline, headers=auth_headers(secret), redirects=0)

    def _read_from_disk(self, bucket: str, key: str) -> bytes:
        folder = self._settings.output_dir.resolve()
        path = (folder / key).resolve()
        try:
            # A symbolic link may lead out of the folder.
            if bucket != self._settings.storage_bucket or not path.is_relative_to(folder):
                raise RequestFailed("there is no such object in storage", retryable=False)
            if path.stat().st_size > self._settings.reference_max_bytes:
                raise self._too_large()
            return path.read_bytes()
        except OSError:
            raise RequestFailed("there is no such object in storage", retryable=False) from None

    def _download(
        self, url: str, deadline: Deadline, *, headers: Mapping[str, str] | None = None, redirects: int = _MAX_REDIRECTS
    ) -> bytes:
        for attempt in retrying(deadline, REFERENCE_RETRIES):
            with attempt, _translate_errors():
                return self._follow(httpx.URL(url), deadline, headers or {}, redirects)
        raise AssertionError("retrying() yields at least once and propagates the last error")

    def _follow(self, url: httpx.URL, deadline: Deadline, headers: Mapping[str, str], redirects: int) -> bytes:
        for _ in range(redirects + 1):
            self._check(url)
            # One client per hop, so that no cookie is passed on.
            with (
                guarded_client(deadline, allow_private=self._allow_private, verify=self._tls, resolve=self._resolve) as client,
                client.stream("GET", url, headers={"Accept-Encoding": "identity", **headers}) as response,
            ):
                if not response.has_redirect_location:
                    return self._read(response)
                url = url.join(response.headers["location"])
        raise RequestFailed(f"it redirects more than {redirects} times", retryable=False)

    def _check(self, url: httpx.URL) -> None:
        if len(str(url)) > _MAX_URL_LENGTH:
            raise RequestFailed(f"its URL is longer than {_MAX_URL_LENGTH} characters", retryable=False)
        if url.userinfo:
            raise RequestFailed("its URL contains a user name or a password", retryable=False)
        if origin(url) == self._supabase:
            return
        if url.scheme != "https" or not url.host:
            raise RequestFailed("only https:// URLs are fetched", retryable=False)
        if origin(url)[2] != 443:
            raise RequestFailed("only port 443 is contacted", retryable=False)
        allowed = self._settings.reference_allowed_hosts
        if allowed and url.host not in allowed:
            raise RequestFailed("its host is not in REFERENCE_ALLOWED_HOSTS", retryable=False)

    def _allow_private(self, host: str, port: int) -> bool:
        return self._supabase is not None and (host, port) == self._supabase[1:]

    def _read(self, response: httpx.Response) -> bytes:
        if response.status_code != 200:
            status = self._real_status(response)
            raise RequestFailed(f"its host returned HTTP {status}", retryable=REFERENCE_RETRIES.retries_status(status), status=status)
        # No encoding was requested, and a small compressed body can expand to a very large one.
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestFailed("its host sent a content encoding that was not requested", retryable=False)
        return self._read_bounded(response, self._settings.reference_max_bytes)

    def _real_status(self, response: httpx.Response) -> int:
        """Returns the status, which Supabase Storage puts into the body of a response that is always 400."""
        if response.status_code != 400 or origin(response.request.url) != self._supabase:
            return response.status_code
        try:
            return int(json.loads(self._read_bounded(response, _MAX_ERROR_BYTES))["statusCode"])
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError, RequestFailed):
            return response.status_code

    def _read_bounded(self, response: httpx.Response, limit: int) -> bytes:
        declared = response.headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > limit:
            raise self._too_large()
        body = bytearray()
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > limit:
                raise self._too_large()
        return bytes(body)

    def _too_large(self) -> RequestFailed:
        return RequestFailed(f"it has more than {self._settings.reference_max_bytes} bytes", retryable=False)


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Translates network errors into messages without URLs, which the messages of httpx contain."""
    try:
        yield
    except (httpx.InvalidURL, ValueError):  # of host names, `idna` raises subclasses of ValueError
        raise RequestFailed("its URL is malformed", retryable=False) from None
    except HostRefused as error:
        raise RequestFailed(str(error), retryable=False) from None
    except httpx.TimeoutException:
        raise RequestFailed("its host timed out", retryable=True) from None
    except httpx.TransportError:
        raise RequestFailed("the connection to its host failed", retryable=True) from None


def _decode_data_url(url: str, limit: int) -> bytes:
    prefix = _DATA_URL.match(url)
    if prefix is None:
        raise RequestFailed("a data: URL must start with data:image/png;base64, (or jpeg, or webp)", retryable=False)
    payload = url[prefix.end() :]
    if len(payload) > (limit + 2) // 3 * 4:
        raise RequestFailed(f"it has more than {limit} bytes", retryable=False)
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise RequestFailed("its data is not base64", retryable=False) from None


def _owned_object(path: str, user_id: str | None, own_bucket: str) -> tuple[str, str]:
    """Splits `{user_id}/…` or `bucket/{user_id}/…` into bucket and key. The service key reads any folder, so the owner is checked here."""
    segments = path.split("/")
    if not all(_SEGMENT.fullmatch(segment) and segment not in (".", "..") for segment in segments):
        raise RequestFailed("its storage path has an empty segment, a dot segment or an invalid character", retryable=False)
    if user_id is not None and len(segments) >= 2 and segments[0] == user_id:
        return own_bucket, path
    if user_id is not None and len(segments) >= 3 and segments[1] == user_id:
        return segments[0], "/".join(segments[1:])
    raise RequestFailed("its storage path is not in the folder of the job's user_id", retryable=False)
