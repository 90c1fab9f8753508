"""Webhooks: signatures, delivery with retries, targets, and secrets."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import stamina
from pydantic import SecretStr

from playground.callback_receiver import CallbackReceiver, CannedResponse
from shared.settings import Settings, SettingsError
from shared.webhooks import Webhook, WebhookInvalid, sign, verify

SECRET = "canary-callback-secret"
KEY = "canary-service-key"
BODY = '{"job_id":"j","status":"completed","note":"größer"}'.encode()
VECTORS = json.loads((Path(__file__).parent / "vectors" / "webhook.json").read_text())


@pytest.fixture(autouse=True)
def _no_backoff() -> Iterator[None]:
    with stamina.set_testing(True, attempts=10, cap=True):
        yield


def webhook_to(receiver: CallbackReceiver, **others: Any) -> Webhook:
    return Webhook(Settings(job_callback_url=receiver.url, job_callback_secret=SecretStr(SECRET), **others))


def signed(body: bytes = BODY, *, secret: str = SECRET, at: datetime | None = None) -> dict[str, str]:
    return sign(body, secret=secret, webhook_id="an-id", at=at or datetime.now(UTC))


@pytest.mark.parametrize("vector", VECTORS)
def test_signatures_match_the_receivers_test_vectors(vector: dict[str, Any]) -> None:
    at = datetime.fromtimestamp(vector["timestamp"], UTC)
    assert sign(vector["body"].encode(), secret=vector["secret"], webhook_id=vector["id"], at=at) == vector["headers"]


@pytest.mark.parametrize("secret", [SECRET, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "ü 😀"])
def test_signed_body_verifies(secret: str) -> None:
    verify(signed(secret=secret), BODY, secret)
    verify({name.upper(): value for name, value in signed(secret=secret).items()}, BODY, secret)


@pytest.mark.parametrize("name", ["X-Callback-Signature", "webhook-id", "webhook-timestamp", "webhook-signature"])
def test_verification_requires_every_header(name: str) -> None:
    headers = signed()
    del headers[name]
    with pytest.raises(WebhookInvalid):
        verify(headers, BODY, SECRET)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Callback-Signature", "sha256=" + "0" * 64),
        ("X-Callback-Signature", "größer \udcff"),
        ("webhook-id", "another"),
        ("webhook-timestamp", "not a time"),
        ("webhook-timestamp", "nan"),
        ("webhook-signature", "v1,AAAA"),
        ("webhook-signature", "v1"),
        ("webhook-signature", "v1,größer"),
    ],
)
def test_modified_header_fails_verification(name: str, value: str) -> None:
    with pytest.raises(WebhookInvalid):
        verify(signed() | {name: value}, BODY, SECRET)


def test_modified_body_fails_verification() -> None:
    with pytest.raises(WebhookInvalid):
        verify(signed(), BODY + b" ", SECRET)
    with pytest.raises(WebhookInvalid):
        verify(signed(), b"\xff\xfe", SECRET)


def test_another_secret_fails_verification() -> None:
    with pytest.raises(WebhookInvalid):
        verify(signed(secret="another"), BODY, SECRET)


@pytest.mark.parametrize("minutes", [-6, 6])
def test_timestamp_outside_the_tolerance_fails_verification(minutes: int) -> None:
    with pytest.raises(WebhookInvalid, match="too old"):
        verify(signed(at=datetime.now(UTC) + timedelta(minutes=minutes)), BODY, SECRET)


def test_callback_arrives_unchanged_and_verifies() -> None:
    with CallbackReceiver(SECRET) as receiver:
        delivery = webhook_to(receiver).send(receiver.url, BODY, webhook_id="j-completed")
        (message,) = receiver.messages
    assert (delivery.delivered, delivery.attempts, delivery.status, delivery.reason) == (True, 1, 200, None)
    assert (message.body, message.problem) == (BODY, None)
    assert (message.headers["webhook-id"], message.headers["content-type"]) == ("j-completed", "application/json")


@pytest.mark.parametrize(
    "answer", [*(CannedResponse(status) for status in (408, 425, 429, 500, 502, 503, 504, 546)), CannedResponse(reset=True)]
)
def test_transient_failure_is_retried(answer: CannedResponse) -> None:
    with CallbackReceiver(SECRET, responses=[answer, answer]) as receiver:
        delivery = webhook_to(receiver).send(receiver.url, BODY, webhook_id="an-id")
        messages = receiver.messages
    assert (delivery.delivered, delivery.attempts, delivery.status) == (True, 3, 200)
    assert {message.body for message in messages} == {BODY}
    assert {message.headers["webhook-id"] for message in messages} == {"an-id"}
    assert all(message.verified for message in messages)


@pytest.mark.parametrize("status", [204, 299])
def test_every_2xx_status_is_success(status: int) -> None:
    with CallbackReceiver(SECRET, responses=[CannedResponse(status)]) as receiver:
        assert webhook_to(receiver).send(receiver.url, BODY, webhook_id="an-id").delivered


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 403, 404, 410, 413, 422])
def test_client_errors_and_redirects_are_final(status: int) -> None:
    with (
        CallbackReceiver(SECRET) as elsewhere,
        CallbackReceiver(SECRET, responses=[CannedResponse(status, {"Location": elsewhere.url})]) as receiver,
    ):
        delivery = webhook_to(receiver).send(receiver.url, BODY, webhook_id="an-id")
        assert elsewhere.messages == []
    assert (delivery.delivered, delivery.attempts, delivery.status) == (False, 1, status)
    assert str(status) in str(delivery.reason)


def test_unavailable_receiver_is_tried_until_the_deadline() -> None:
    with CallbackReceiver(SECRET, responses=[CannedResponse(503)] * 20) as receiver:
        delivery = webhook_to(receiver).send(receiver.url, BODY, webhook_id="an-id")
    assert (delivery.delivered, delivery.attempts, delivery.status) == (False, 10, 503)


def test_refused_connection_does_not_raise() -> None:
    with CallbackReceiver(SECRET) as receiver:
        webhook = webhook_to(receiver)
    delivery = webhook.send(receiver.url, BODY, webhook_id="an-id")
    assert (delivery.delivered, delivery.attempts, delivery.status) == (False, 10, None)
    assert delivery.reason == "The connection to the receiver failed (ConnectError)."


def test_hanging_receiver_is_bounded_by_the_deadline() -> None:
    with CallbackReceiver(SECRET, responses=[CannedResponse(delay=30.0)] * 9) as receiver:
        delivery = webhook_to(receiver, callback_deadline=0.3).send(receiver.url, BODY, webhook_id="an-id")
    assert (delivery.delivered, delivery.reason) == (False, "The receiver timed out.")


@pytest.mark.parametrize("later", ["3600", "an hour from now", "9" * 400])
def test_retry_after_beyond_the_deadline_ends_the_delivery(later: str) -> None:
    # Computed here, so that the test's id is stable.
    in_an_hour = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    later = later.replace("an hour from now", in_an_hour)
    with CallbackReceiver(SECRET, responses=[CannedResponse(503, {"Retry-After": later})] * 9) as receiver:
        delivery = webhook_to(receiver).send(receiver.url, BODY, webhook_id="an-id")
    assert (delivery.delivered, delivery.attempts) == (False, 1)


def test_retry_after_is_honoured_and_the_retry_is_signed_anew() -> None:
    with stamina.set_testing(False), CallbackReceiver(SECRET, responses=[CannedResponse(429, {"Retry-After": "2"})]) as receiver:
        delivery = webhook_to(receiver).send(receiver.url, BODY, webhook_id="an-id")
        first, second = receiver.messages
    assert delivery.delivered
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) >= 2
    assert second.headers["webhook-signature"] != first.headers["webhook-signature"]
    assert second.verified


@pytest.mark.parametrize("nonsense", ["soon", "-5", "1.5", "²", ""])
def test_invalid_retry_after_is_ignored(nonsense: str) -> None:
    with CallbackReceiver(SECRET, responses=[CannedResponse(503, {"Retry-After": nonsense.encode().decode("latin-1")})]) as receiver:
        assert webhook_to(receiver).send(receiver.url, BODY, webhook_id="an-id").attempts == 2


@pytest.mark.parametrize(("key", "bearer"), [(KEY, f"Bearer {KEY}"), ("sb_secret_canary_0123456789", None)])
def test_service_key_is_sent_to_supabase_edge_functions_only_and_a_secret_key_never_as_a_bearer(key: str, bearer: str | None) -> None:
    with CallbackReceiver(SECRET) as supabase, CallbackReceiver(SECRET) as other:
        origin = supabase.url.removesuffix("/job-callback")
        settings = Settings(
            supabase_url=origin, supabase_key=SecretStr(key), job_callback_secret=SecretStr(SECRET), callback_allowed_hosts=("127.0.0.1",)
        )
        webhook = Webhook(settings)
        for path in ("/functions/v1/job-callback", "/functions/v1/other?x=1"):
            assert webhook.send(origin + path, BODY, webhook_id="an-id").delivered
        for path in ("/rest/v1/jobs", "/functions/v1/../../rest/v1/jobs", "/functions/v1/%2e%2e/rest", "/functions/v1"):
            assert webhook.send(origin + path, BODY, webhook_id="an-id").delivered
        assert webhook.send(other.url, BODY, webhook_id="an-id").delivered
        sent = [(message.headers.get("authorization"), message.headers.get("apikey")) for message in supabase.messages + other.messages]
    assert sent == [(bearer, key)] * 2 + [(None, None)] * 5


def allowing(*hosts: str, **others: Any) -> Webhook:
    return Webhook(Settings(callback_allowed_hosts=hosts, job_callback_secret=SecretStr(SECRET), **others))


def test_configured_url_is_the_default_target() -> None:
    assert allowing("hooks.example", job_callback_url="https://own.example/cb").target(None) == "https://own.example/cb"
    assert Webhook(Settings()).target(None) is None


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example/x?y=1",
        "https://HOOKS.example/",
        "https://hooks.example:443/",
        "https://ports.example:8443/",
        "http://localhost:1/",
    ],
)
def test_request_may_name_a_url_on_an_allowed_host(url: str) -> None:
    assert allowing("hooks.example", "ports.example:8443", "localhost").target(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/",
        "https://evil.example/",
        "https://hooks.example.evil.example/",
        "https://hooks.example@evil.example/",
        "https://evil.example\\@hooks.example/",
        "https://user:pass@hooks.example/",
        "https://hooks.example./",
        "https://hooks.example:8443/",
        "https://hooks.example:22/",
        "https://xn--a/",
        "http://127.0.0.1/",
        "http://169.254.169.254/",
        "ftp://hooks.example/",
        "file:///etc/passwd",
        "//hooks.example/",
        "https://[hooks.example/",
        "",
    ],
)
def test_url_on_another_host_is_ignored(url: str) -> None:
    webhook = allowing("hooks.example", job_callback_url="https://own.example/cb")
    assert webhook.target(url) == "https://own.example/cb"
    with pytest.raises(ValueError, match="neither configured nor"):
        webhook.send(url, BODY, webhook_id="an-id")


@pytest.mark.parametrize("host", ["unknown.invalid", "10.0.0.1", "169.254.169.254", "[::ffff:10.0.0.1]", "2130706433", "0x7f.1"])
def test_allowed_host_name_does_not_open_the_private_network(host: str) -> None:
    delivery = allowing(host.strip("[]")).send(f"https://{host}/", BODY, webhook_id="an-id")
    assert (delivery.delivered, delivery.attempts) == (False, 1)
    assert str(delivery.reason).startswith("The receiver was not contacted")


@pytest.mark.parametrize("webhook_id", ["", "a b", "a.b", "a\r\nx: y", "ü", "x" * 300])
def test_invalid_webhook_id_is_refused(webhook_id: str) -> None:
    with CallbackReceiver(SECRET) as receiver, pytest.raises(ValueError, match="webhook id"):
        webhook_to(receiver).send(receiver.url, BODY, webhook_id=webhook_id)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"job_callback_url": "http://own.example/cb", "job_callback_secret": SECRET}, "must start with https"),
        ({"job_callback_url": "https://own.example/cb"}, "Set JOB_CALLBACK_SECRET"),
        ({"callback_allowed_hosts": ("a.example",)}, "Set JOB_CALLBACK_SECRET"),
        ({"job_callback_url": "https://own.example:x", "job_callback_secret": SECRET}, "JOB_CALLBACK_URL is not a valid URL"),
        ({"job_callback_url": "https://xn--a/cb", "job_callback_secret": SECRET}, "JOB_CALLBACK_URL is not a valid URL"),
        ({"job_callback_url": "https://own.example/cb", "job_callback_secret": "whsec_"}, "has 0 bytes and needs 16"),
        ({"job_callback_url": "https://own.example/cb", "job_callback_secret": "whsec_A"}, "which base64 must follow"),
        ({"job_callback_url": "https://own.example/cb", "job_callback_secret": "whsec_" + "A" * 20}, "has 15 bytes and needs 16"),
        ({"job_callback_url": "https://own.example/cb", "job_callback_secret": "fifteen bytes.."}, "has 15 bytes and needs 16"),
    ],
)
def test_invalid_callback_settings_are_reported_at_startup(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Webhook(Settings(**settings))


def test_secrets_appear_in_no_repr_or_log_line(capfd: pytest.CaptureFixture[str]) -> None:
    with CallbackReceiver(SECRET, responses=[CannedResponse(503), CannedResponse(reset=True), CannedResponse(404)]) as receiver:
        webhook = webhook_to(receiver)
        url = receiver.url + "?token=canary-token"
        delivery = Webhook(Settings(job_callback_url=url, job_callback_secret=SecretStr(SECRET))).send(url, BODY, webhook_id="an-id")
    shown = repr(webhook) + repr(vars(webhook)) + repr(delivery) + "".join(capfd.readouterr())
    assert "canary" not in shown
    assert "retry_scheduled" in shown, "the retries were logged"
