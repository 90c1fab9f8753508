"""References become verified pictures, whoever wrote them.

A reference is a URL, a `data:` URL or a path in the project's storage. URLs are fetched by https from port 443 of public addresses, and
only from `REFERENCE_ALLOWED_HOSTS` where that is set. The origin of `SUPABASE_URL` is the operator's own: the scheme, port and address that
it has are fine, but a URL there gets no key, for a caller may name any object. Only paths, whose owner is known, are fetched with the
service key.
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
from shared.errors import ReferenceImageError
from shared.media.images import UnreadableImage, open_image
from shared.network import Deadline, HostRefused, RequestFailed, Resolver, configured_origin, guarded_client, origin, retrying
from shared.settings import Settings

_ATTEMPTS = 3
_REDIRECTS = 3
_URL_LENGTH = 2048
_ERROR_LENGTH = 64 * 1024
_RETRIED = frozenset({408, 425, 429})
_DATA_URL = re.compile(r"data:image/(?:png|jpeg|webp);base64,", re.IGNORECASE)
# What Storage allows in keys, less what would have to be escaped on disk or could be read as an escape.
_SEGMENT = re.compile(r"[A-Za-z0-9_!.*'() &$=@;:+,-]{1,255}")


class Fetcher:
    """Fetches references. Safe to be used by several threads at once.

    Args:
        settings: Where the project's storage is, which hosts are allowed, how long and how large a reference may be.
        resolve: Resolves names.
        verify: The certificates that are believed; by default those of the public authorities.

    Raises:
        SettingsError: `SUPABASE_URL` is not a URL.
    """

    def __init__(self, settings: Settings, *, resolve: Resolver = socket.getaddrinfo, verify: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._resolve = resolve
        self._tls = verify or httpx.create_ssl_context(trust_env=False)
        self._supabase = configured_origin("SUPABASE_URL", settings.supabase_url)

    def fetch(self, reference: Reference, *, field: str, user_id: str | None, seconds: float = math.inf) -> Image.Image:
        """Fetches a reference and opens it.

        Args:
            reference: What the request names.
            field: Where it stands in the request; named in the error.
            user_id: The job's. Paths in storage must belong to it.
            seconds: At most so long, where `REFERENCE_DEADLINE` is not shorter.

        Returns:
            RGB, within the limits of `shared.media.images.open_image`.

        Raises:
            ReferenceImageError: It cannot be fetched, opened or used. Retryable when its host failed or was late.
        """
        try:
            return open_image(self._content(reference, user_id, Deadline(min(self._settings.reference_deadline, seconds))))
        except (RequestFailed, UnreadableImage) as error:
            retryable = isinstance(error, RequestFailed) and error.retryable
            raise ReferenceImageError(f"{field}: the reference cannot be used: {error}.", retryable=retryable) from None

    def _content(self, reference: Reference, user_id: str | None, deadline: Deadline) -> bytes:
        if reference.kind == "data":
            return _decode_data_url(reference.value, self._settings.reference_max_bytes)
        if reference.kind == "url":
            return self._download(reference.value, deadline)
        bucket, key = _owned_object(reference.value, user_id, self._settings.storage_bucket)
        if self._settings.supabase_url is None:
            return self._read_from_disk(bucket, key)
        return self._download_object(bucket, key, deadline)

    def _download_object(self, bucket: str, key: str, deadline: Deadline) -> bytes:
        secret = self._settings.supabase_key
        if secret is None:
            raise RequestFailed("the worker has no key to the project's storage", retryable=False)
        url = f"{self._settings.supabase_url}/storage/v1/object/authenticated/{quote(bucket)}/{quote(key)}"
        token = secret.get_secret_value()
        return self._download(url, deadline, headers={"apikey": token, "Authorization": f"Bearer {token}"}, redirects=0)

    def _read_from_disk(self, bucket: str, key: str) -> bytes:
        folder = self._settings.output_dir.resolve()
        path = (folder / key).resolve()
        try:
            # A link in the folder may lead out of it.
            if bucket != self._settings.storage_bucket or not path.is_relative_to(folder):
                raise RequestFailed("there is no such object in storage", retryable=False)
            if path.stat().st_size > self._settings.reference_max_bytes:
                raise self._too_large()
            return path.read_bytes()
        except OSError:
            raise RequestFailed("there is no such object in storage", retryable=False) from None

    def _download(self, url: str, deadline: Deadline, *, headers: Mapping[str, str] | None = None, redirects: int = _REDIRECTS) -> bytes:
        for attempt in retrying(deadline, attempts=_ATTEMPTS, initial_backoff=0.25, max_backoff=2.0):
            with attempt, _translate_errors():
                return self._follow(httpx.URL(url), deadline, headers or {}, redirects)
        raise AssertionError("retrying() yields at least once and lets the last error through")

    def _follow(self, url: httpx.URL, deadline: Deadline, headers: Mapping[str, str], redirects: int) -> bytes:
        for _ in range(redirects + 1):
            self._check(url)
            # A client of its own for each host, so that no cookie goes from one to the next.
            with (
                guarded_client(deadline, allow_private=self._allow_private, verify=self._tls, resolve=self._resolve) as client,
                client.stream("GET", url, headers={"Accept-Encoding": "identity", **headers}) as response,
            ):
                if not response.has_redirect_location:
                    return self._read(response)
                url = url.join(response.headers["location"])
        raise RequestFailed(f"it is redirected more than {redirects} times", retryable=False)

    def _check(self, url: httpx.URL) -> None:
        if len(str(url)) > _URL_LENGTH:
            raise RequestFailed(f"its URL is longer than {_URL_LENGTH} characters", retryable=False)
        if url.userinfo:
            raise RequestFailed("its URL holds a user name or a password", retryable=False)
        if origin(url) == self._supabase:
            return
        if url.scheme != "https" or not url.host:
            raise RequestFailed("only https:// URLs are fetched", retryable=False)
        if origin(url)[2] != 443:
            raise RequestFailed("only port 443 is contacted", retryable=False)
        allowed = self._settings.reference_allowed_hosts
        if allowed and url.host not in allowed:
            raise RequestFailed("its host is not one of those that the operator allows", retryable=False)

    def _allow_private(self, host: str, port: int) -> bool:
        return self._supabase is not None and (host, port) == self._supabase[1:]

    def _read(self, response: httpx.Response) -> bytes:
        if response.status_code != 200:
            status = self._real_status(response)
            raise RequestFailed(f"its host answered with {status}", retryable=status in _RETRIED or status >= 500, status=status)
        # An encoded answer was not asked for, and a small one can become a very large one.
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestFailed("its host sent it in an encoding that was not asked for", retryable=False)
        return self._read_at_most(response, self._settings.reference_max_bytes)

    def _real_status(self, response: httpx.Response) -> int:
        """The status, which Storage puts into the body of an answer that is always 400."""
        if response.status_code != 400 or origin(response.request.url) != self._supabase:
            return response.status_code
        try:
            return int(json.loads(self._read_at_most(response, _ERROR_LENGTH))["statusCode"])
        except (ValueError, TypeError, LookupError, RequestFailed):
            return response.status_code

    def _read_at_most(self, response: httpx.Response, limit: int) -> bytes:
        announced = response.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > limit:
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
    """Says in words what the network did. The texts of httpx hold whole URLs."""
    try:
        yield
    except httpx.InvalidURL:
        raise RequestFailed("its URL is malformed", retryable=False) from None
    except HostRefused as error:
        raise RequestFailed(str(error), retryable=False) from None
    except httpx.TimeoutException:
        raise RequestFailed("its host did not answer in time", retryable=True) from None
    except httpx.TransportError:
        raise RequestFailed("the connection to its host failed", retryable=True) from None


def _decode_data_url(url: str, limit: int) -> bytes:
    prefix = _DATA_URL.match(url)
    if prefix is None:
        raise RequestFailed("a data: URL must begin with data:image/png;base64, or the same with jpeg or webp", retryable=False)
    payload = url[prefix.end() :]
    if len(payload) > (limit + 2) // 3 * 4:
        raise RequestFailed(f"it has more than {limit} bytes", retryable=False)
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise RequestFailed("its data is not base64", retryable=False) from None


def _owned_object(path: str, user_id: str | None, own_bucket: str) -> tuple[str, str]:
    """Splits `{user_id}/…` or `bucket/{user_id}/…` into bucket and key. The service key opens every folder: the owner is checked here."""
    segments = path.split("/")
    if not all(_SEGMENT.fullmatch(segment) and segment not in (".", "..") for segment in segments):
        raise RequestFailed("its storage path has an empty segment, a dot segment or a character that no key has", retryable=False)
    if user_id is not None and len(segments) >= 2 and segments[0] == user_id:
        return own_bucket, path
    if user_id is not None and len(segments) >= 3 and segments[1] == user_id:
        return segments[0], "/".join(segments[1:])
    raise RequestFailed("its storage path is not in the folder of the job's user_id", retryable=False)
