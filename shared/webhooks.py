"""Webhooks: signs callbacks, sends them with retries, and verifies them on the receiver's side.

Every attempt carries two signatures. `X-Callback-Signature` is `sha256=` and the hexadecimal HMAC-SHA256 of the raw body, keyed with the
secret's text. The three headers of Standard Webhooks 1.0 add an id, which is the same for all attempts and lets receivers deduplicate, and
a timestamp, which is not. Their key is the base64 after `whsec_` if the secret starts with that, else the secret's text, as if it had been
given in base64 after `whsec_`.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import standardwebhooks

from shared.contract.callback_hosts import allows_callback
from shared.credentials import auth_headers, secret_problem
from shared.network import (
    WEBHOOK_RETRIES,
    Deadline,
    HostRefused,
    RequestFailed,
    configured_origin,
    guarded_client,
    is_loopback,
    origin,
    retrying,
)
from shared.settings import Settings, SettingsError
from shared.trace_context import TraceContext

WEBHOOK_ID = r"^[A-Za-z0-9_-]{1,256}$"
"""The pattern of a `webhook-id`."""

_ATTEMPT_SECONDS = 20.0
# Without escapes and dots, which a gateway might resolve to another path.
_EDGE_FUNCTION = re.compile(rb"/functions/v1/[A-Za-z0-9_/-]+(\?.*)?")


@dataclass(frozen=True, slots=True)
class WebhookResult:
    """The result of sending one callback.

    Attributes:
        delivered: Whether the receiver accepted it with 200 … 299.
        attempts: The number of attempts made.
        status: The status of the last response, if any.
        reason: Why it was not delivered.
    """

    delivered: bool
    attempts: int
    status: int | None = None
    reason: str | None = None


class WebhookInvalid(Exception):
    """A callback was not signed with this secret, was modified, or is too old."""


def sign(body: bytes, *, secret: str, webhook_id: str, at: datetime) -> dict[str, str]:
    """Returns the headers with both signatures.

    Args:
        body: The exact body, UTF-8.
        secret: `JOB_CALLBACK_SECRET`.
        webhook_id: The same for all attempts of one callback.
        at: The time of this attempt, with its time zone.

    Raises:
        ValueError: The secret starts with `whsec_`, but no base64 follows.
    """
    return {
        "X-Callback-Signature": _plain_signature(body, secret),
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": _standard(secret).sign(webhook_id, at.astimezone(UTC), body.decode()),
    }


def verify(headers: Mapping[str, str], body: bytes, secret: str) -> None:
    """Verifies both signatures of a callback, and that its timestamp is within five minutes of now.

    Delivery is at least once: receivers should also deduplicate by `webhook-id`.

    Args:
        headers: The request's headers, case-insensitive.
        body: The raw body.
        secret: `JOB_CALLBACK_SECRET`.

    Raises:
        WebhookInvalid: A signature is missing or wrong, or the time is.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    given = lowered.get("x-callback-signature", "").encode(errors="backslashreplace")
    if not hmac.compare_digest(given, _plain_signature(body, secret).encode()):
        raise WebhookInvalid("X-Callback-Signature is missing, or is not the signature of this body.")
    try:
        _standard(secret).verify(body, lowered, json_parse=False)
    except (standardwebhooks.WebhookVerificationError, ValueError) as error:
        raise WebhookInvalid("The webhook-* headers are missing, too old, or not of this body.") from error


def _plain_signature(body: bytes, secret: str) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def _standard(secret: str) -> standardwebhooks.Webhook:
    return standardwebhooks.Webhook(secret if secret.startswith("whsec_") else secret.encode())


class Webhook:
    """Sends callbacks. Thread-safe.

    The operator's receiver is `JOB_CALLBACK_URL` or the edge function of `SUPABASE_URL`; it may have any address. A request may name
    another URL on a host and port of `CALLBACK_ALLOWED_HOSTS`, over https and at a public address: allowing a host name must not open
    the private network to SSRF. Plain http is possible only to loopback hosts that are allowed by name.

    The service key is sent to the origin of `SUPABASE_URL` only, and there only to the configured URL and to edge functions. Otherwise a
    request could have it sent to any path of the project's API.

    Raises:
        SettingsError: `JOB_CALLBACK_URL` is plain http to a remote host, or the secret is missing or invalid.
    """

    def __init__(self, settings: Settings) -> None:
        self._configured = settings.callback_url
        self._allowed = frozenset(settings.callback_allowed_hosts)
        self._deadline = settings.callback_deadline
        self._supabase = configured_origin("SUPABASE_URL", settings.supabase_url)
        self._own = {self._supabase, configured_origin("JOB_CALLBACK_URL", settings.callback_url)}
        self._key = settings.supabase_key
        self._secret = settings.job_callback_secret
        self._tls = httpx.create_ssl_context(trust_env=False)
        self._check()

    def _check(self) -> None:
        if self._configured is None and not self._allowed:
            return
        if self._secret is None:
            raise SettingsError("Callbacks must be signed. Set JOB_CALLBACK_SECRET.")
        if (problem := secret_problem(self._secret)) is not None:
            raise SettingsError(f"JOB_CALLBACK_SECRET {problem}.")
        if self._configured is not None:
            url = httpx.URL(self._configured)
            if url.scheme != "https" and origin(url) != self._supabase and not is_loopback(url.host):
                raise SettingsError(
                    "JOB_CALLBACK_URL must start with https://. Plain http is allowed only to loopback and to the origin of SUPABASE_URL."
                )

    def target(self, callback_url: str | None) -> str | None:
        """Returns the URL of a job's callbacks.

        Args:
            callback_url: The request's own URL, if any. It is ignored unless it is allowed.

        Returns:
            The request's URL, else the configured one, else None: no callback.
        """
        return callback_url if callback_url is not None and self._may_name(callback_url) else self._configured

    def _may_name(self, callback_url: str) -> bool:
        try:
            url = httpx.URL(callback_url)
            host = url.host
        except (httpx.InvalidURL, ValueError):  # of host names, `idna` raises subclasses of ValueError
            return False
        if url.userinfo or not allows_callback(host, url.port, self._allowed):
            return False
        return url.scheme == "https" or (url.scheme == "http" and is_loopback(host))

    def send(
        self,
        url: str,
        body: bytes,
        *,
        webhook_id: str,
        attempts: int | None = None,
        seconds: float = math.inf,
        trace: TraceContext | None = None,
    ) -> WebhookResult:
        """Sends a callback until it is accepted, permanently rejected, or `CALLBACK_DEADLINE` has passed.

        Network errors and the statuses of `WEBHOOK_RETRIES` are retried with exponential backoff and jitter, or after `Retry-After` if that
        is longer. Any other status is final, redirects included. All attempts have the same body and id, so that receivers can process
        them idempotently.

        Args:
            url: From `target`.
            body: JSON in UTF-8.
            webhook_id: The key for deduplication, `[A-Za-z0-9_-]`: the same for the same event of the same job.
            attempts: Maximum number of attempts; by default as many as `CALLBACK_DEADLINE` allows.
            seconds: A shorter time limit than `CALLBACK_DEADLINE`.
            trace: Sent as `traceparent`.

        Raises:
            ValueError: The id has other characters, or the URL is not one that `target` returns.
        """
        if not re.fullmatch(WEBHOOK_ID, webhook_id):
            raise ValueError("A webhook id consists of letters, digits, _ and -.")
        if url != self._configured and not self._may_name(url):
            raise ValueError("This URL is neither configured nor on a host of CALLBACK_ALLOWED_HOSTS.")
        deadline = Deadline(min(self._deadline, seconds))
        made = 0
        try:
            for attempt in retrying(deadline, WEBHOOK_RETRIES, attempts=attempts):
                with attempt:
                    made = attempt.num
                    headers = self._headers(httpx.URL(url), body, webhook_id) | _trace_headers(trace)
                    status = self._post(httpx.URL(url), body, headers, deadline.within(_ATTEMPT_SECONDS))
        except RequestFailed as error:
            return WebhookResult(False, made, error.status, str(error))
        return WebhookResult(True, made, status)

    def _post(self, url: httpx.URL, body: bytes, headers: Mapping[str, str], deadline: Deadline) -> int:
        try:
            with (
                guarded_client(deadline, allow_private=self._allow_private, verify=self._tls) as client,
                client.stream("POST", url, content=body, headers=headers) as response,
            ):
                # Only the status counts: the body is not read, so a slow one does not delay acceptance.
                status = response.status_code
        except httpx.TimeoutException:
            raise RequestFailed("The receiver timed out.", retryable=True) from None
        except httpx.TransportError as error:
            raise RequestFailed(f"The connection to the receiver failed ({type(error).__name__}).", retryable=True) from None
        except HostRefused as error:
            raise RequestFailed(f"The receiver was not contacted: {error}.", retryable=False) from None
        if not 200 <= status <= 299:
            retryable = WEBHOOK_RETRIES.retries_status(status)
            raise RequestFailed(f"The receiver returned HTTP {status}.", status=status, retryable=retryable, wait=_retry_after(response))
        return status

    def _headers(self, url: httpx.URL, body: bytes, webhook_id: str) -> dict[str, str]:
        assert self._secret is not None, "checked by the constructor"
        headers = {"Content-Type": "application/json"}
        headers |= sign(body, secret=self._secret.get_secret_value(), webhook_id=webhook_id, at=datetime.now(UTC))
        if self._key is not None and self._may_receive_key(url):
            headers |= auth_headers(self._key)
        return headers

    def _may_receive_key(self, url: httpx.URL) -> bool:
        return origin(url) == self._supabase and (str(url) == self._configured or _EDGE_FUNCTION.fullmatch(url.raw_path) is not None)

    def _allow_private(self, host: str, port: int) -> bool:
        return is_loopback(host) or any(own is not None and (host, port) == own[1:] for own in self._own)


def _trace_headers(trace: TraceContext | None) -> dict[str, str]:
    return {} if trace is None else {"traceparent": trace.traceparent}


def _retry_after(response: httpx.Response) -> float:
    """Returns the seconds of `Retry-After`, 0.0 without a valid one."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, (parsedate_to_datetime(value).astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return 0.0
