"""Callbacks: signed in two ways, sent until they are accepted or their time is over, and verified by receivers.

Two signatures go out with each try. `X-Callback-Signature` is `sha256=` and the hexadecimal HMAC-SHA256 of the raw body; its key is the
secret's text as it is. The three headers of Standard Webhooks 1.0 add an id, which stays the same over all tries, and a time, which does
not. Their key is what follows `whsec_`, decoded from base64, if the secret begins so; else it is the secret's text, as if `whsec_` and the
base64 of that text had been given.
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

from shared.network import Deadline, HostRefused, RequestFailed, configured_origin, guarded_client, is_loopback, origin, retrying
from shared.settings import Settings, SettingsError

ATTEMPTS = 7
"""Tries of one callback."""

WEBHOOK_ID = r"^[A-Za-z0-9_-]{1,256}$"
"""What a `webhook-id` is made of."""

_ATTEMPT_SECONDS = 20.0
_RETRIED = frozenset({408, 425, 429})
# Without escapes and dots, which a gateway might read as another path.
_EDGE_FUNCTION = re.compile(rb"/functions/v1/[A-Za-z0-9_/-]+(\?.*)?")


@dataclass(frozen=True, slots=True)
class WebhookResult:
    """How the sending of one callback ended.

    Attributes:
        delivered: Whether the receiver accepted it, with an answer of 200 … 299.
        attempts: How often it was sent.
        status: The last answer's status, if there was an answer.
        reason: Why it was not delivered.
    """

    delivered: bool
    attempts: int
    status: int | None = None
    reason: str | None = None


class WebhookInvalid(Exception):
    """A callback was not signed with this secret, was changed on its way, or is too old."""


def sign(body: bytes, *, secret: str, webhook_id: str, at: datetime) -> dict[str, str]:
    """Makes the headers that prove where a body comes from.

    Args:
        body: As it is sent, byte by byte. UTF-8.
        secret: `JOB_CALLBACK_SECRET`.
        webhook_id: The same over all tries of one callback.
        at: The moment of this try, with its time zone.

    Raises:
        ValueError: The secret begins with `whsec_` and no base64 follows.
    """
    return {
        "X-Callback-Signature": _plain_signature(body, secret),
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": _standard(secret).sign(webhook_id, at.astimezone(UTC), body.decode()),
    }


def verify(headers: Mapping[str, str], body: bytes, secret: str) -> None:
    """Checks both signatures of a callback, and that it was sent within five minutes from now.

    Whoever receives callbacks should also remember the `webhook-id`s that it has acted on: a delivery may come twice.

    Args:
        headers: Of the request; the case of their names does not matter.
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
    """Sends callbacks. Safe to be used by several threads at once.

    The operator's own receiver is `JOB_CALLBACK_URL` or the edge function of `SUPABASE_URL`; it may have any address. A request may name
    another one, on a host of `CALLBACK_ALLOWED_HOSTS`: by https, and at a public address, because a name that the operator allows is not a
    network that the operator opens. Only loopback, where it is allowed by name, may be plain http.

    The service key goes to the origin of `SUPABASE_URL` alone, and there only to the configured URL and to edge functions: a request that
    could send it to other paths could use it.

    Raises:
        SettingsError: `JOB_CALLBACK_URL` is plain http to another host, or the secret is missing or cannot be used.
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
            raise SettingsError("Callbacks are signed. Please set JOB_CALLBACK_SECRET.")
        try:
            _standard(self._secret.get_secret_value())
        except (ValueError, standardwebhooks.webhooks.EmptyWebhookSecretError):
            raise SettingsError("JOB_CALLBACK_SECRET begins with whsec_ and must go on with base64. Please correct it.") from None
        if self._configured is not None:
            url = httpx.URL(self._configured)
            if url.scheme != "https" and origin(url) != self._supabase and not is_loopback(url.host):
                raise SettingsError(
                    "JOB_CALLBACK_URL must begin with https://. Plain http is only for loopback and the origin of SUPABASE_URL."
                )

    def target(self, callback_url: str | None) -> str | None:
        """Says where a job's callbacks go.

        Args:
            callback_url: What the request asks for, if it does. One that is not allowed counts for nothing.

        Returns:
            That, else what is configured, else None: no callback.
        """
        return callback_url if callback_url is not None and self._may_name(callback_url) else self._configured

    def _may_name(self, callback_url: str) -> bool:
        try:
            url = httpx.URL(callback_url)
        except httpx.InvalidURL:
            return False
        if url.userinfo or url.host not in self._allowed:
            return False
        return url.scheme == "https" or (url.scheme == "http" and is_loopback(url.host))

    def send(self, url: str, body: bytes, *, webhook_id: str, attempts: int = ATTEMPTS, seconds: float = math.inf) -> WebhookResult:
        """Sends a callback until it is accepted, is refused for good, or `CALLBACK_DEADLINE` is over.

        Network errors, 408, 425, 429 and 5xx are tried again, after a growing pause or after what `Retry-After` asks for. Any other answer
        is final, a redirect too. The body is the same in every try.

        Args:
            url: From `target`.
            body: JSON in UTF-8.
            webhook_id: By which the receiver knows a repetition: `[A-Za-z0-9_-]`, the same for the same event of the same job.
            attempts: At most so many tries.
            seconds: At most so long, where `CALLBACK_DEADLINE` is not shorter.

        Raises:
            ValueError: The id holds something else, or the URL is not one that `target` returns.
        """
        if not re.fullmatch(WEBHOOK_ID, webhook_id):
            raise ValueError("A webhook's id is made of letters, digits, _ and -.")
        if url != self._configured and not self._may_name(url):
            raise ValueError("This URL is neither configured nor on a host of CALLBACK_ALLOWED_HOSTS.")
        deadline = Deadline(min(self._deadline, seconds))
        made = 0
        try:
            for attempt in retrying(deadline, attempts=attempts, initial_backoff=0.5, max_backoff=15.0):
                with attempt:
                    made = attempt.num
                    status = self._try(httpx.URL(url), body, webhook_id, deadline.within(_ATTEMPT_SECONDS))
        except RequestFailed as error:
            return WebhookResult(False, made, error.status, str(error))
        return WebhookResult(True, made, status)

    def _try(self, url: httpx.URL, body: bytes, webhook_id: str, deadline: Deadline) -> int:
        try:
            with (
                guarded_client(deadline, allow_private=self._allow_private, verify=self._tls) as client,
                client.stream("POST", url, content=body, headers=self._headers(url, body, webhook_id)) as response,
            ):
                # Only the status counts. A receiver that then takes its time with the rest has still accepted.
                status = response.status_code
        except httpx.TimeoutException:
            raise RequestFailed("The receiver did not answer in time.", retryable=True) from None
        except httpx.TransportError as error:
            raise RequestFailed(f"The connection to the receiver failed ({type(error).__name__}).", retryable=True) from None
        except HostRefused as error:
            raise RequestFailed(f"The receiver is not contacted: {error}.", retryable=False) from None
        if not 200 <= status <= 299:
            retryable = status in _RETRIED or status >= 500
            raise RequestFailed(f"The receiver answered with {status}.", status=status, retryable=retryable, wait=_retry_after(response))
        return status

    def _headers(self, url: httpx.URL, body: bytes, webhook_id: str) -> dict[str, str]:
        assert self._secret is not None, "checked when this object was made"
        headers = {"Content-Type": "application/json"}
        headers |= sign(body, secret=self._secret.get_secret_value(), webhook_id=webhook_id, at=datetime.now(UTC))
        if self._key is not None and self._takes_key(url):
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        return headers

    def _takes_key(self, url: httpx.URL) -> bool:
        return origin(url) == self._supabase and (str(url) == self._configured or _EDGE_FUNCTION.fullmatch(url.raw_path) is not None)

    def _allow_private(self, host: str, port: int) -> bool:
        return is_loopback(host) or any(own is not None and (host, port) == own[1:] for own in self._own)


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the receiver asks to wait, 0.0 where it does not."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, (parsedate_to_datetime(value).astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return 0.0
