import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import stamina
from pydantic import SecretStr

from playground.callback_receiver import Answer, Inbox
from shared.settings import Settings, SettingsError
from shared.webhooks import Webhook, WebhookInvalid, sign, verify

SECRET = "canary-callback-secret"
KEY = "canary-service-key"
BODY = '{"job_id":"j","status":"completed","note":"größer"}'.encode()
VECTORS = json.loads((Path(__file__).parent / "vectors" / "webhook.json").read_text())


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    with stamina.set_testing(True, attempts=10, cap=True):
        yield


def webhook_to(inbox: Inbox, **others: Any) -> Webhook:
    return Webhook(Settings(job_callback_url=inbox.url, job_callback_secret=SecretStr(SECRET), **others))


def signed(body: bytes = BODY, *, secret: str = SECRET, at: datetime | None = None) -> dict[str, str]:
    return sign(body, secret=secret, webhook_id="an-id", at=at or datetime.now(UTC))


@pytest.mark.parametrize("vector", VECTORS)
def test_signing_agrees_with_the_vectors_that_receivers_test_with(vector: dict[str, Any]) -> None:
    at = datetime.fromtimestamp(vector["timestamp"], UTC)
    assert sign(vector["body"].encode(), secret=vector["secret"], webhook_id=vector["id"], at=at) == vector["headers"]


@pytest.mark.parametrize("secret", [SECRET, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "ü 😀"])
def test_what_is_signed_is_verified(secret: str) -> None:
    verify(signed(secret=secret), BODY, secret)
    verify({name.upper(): value for name, value in signed(secret=secret).items()}, BODY, secret)


@pytest.mark.parametrize("name", ["X-Callback-Signature", "webhook-id", "webhook-timestamp", "webhook-signature"])
def test_without_one_of_the_headers_nothing_is_verified(name: str) -> None:
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
def test_a_header_that_was_changed_is_found(name: str, value: str) -> None:
    with pytest.raises(WebhookInvalid):
        verify(signed() | {name: value}, BODY, SECRET)


def test_a_body_that_was_changed_is_found() -> None:
    with pytest.raises(WebhookInvalid):
        verify(signed(), BODY + b" ", SECRET)
    with pytest.raises(WebhookInvalid):
        verify(signed(), b"\xff\xfe", SECRET)


def test_another_secret_is_found() -> None:
    with pytest.raises(WebhookInvalid):
        verify(signed(secret="another"), BODY, SECRET)


@pytest.mark.parametrize("minutes", [-6, 6])
def test_what_was_sent_too_long_ago_or_in_the_future_is_not_verified(minutes: int) -> None:
    with pytest.raises(WebhookInvalid, match="too old"):
        verify(signed(at=datetime.now(UTC) + timedelta(minutes=minutes)), BODY, SECRET)


def test_a_callback_arrives_as_it_was_given_and_its_signatures_hold() -> None:
    with Inbox(SECRET) as inbox:
        delivery = webhook_to(inbox).send(inbox.url, BODY, webhook_id="j-completed")
        (message,) = inbox.messages
    assert (delivery.delivered, delivery.attempts, delivery.status, delivery.reason) == (True, 1, 200, None)
    assert (message.body, message.problem) == (BODY, None)
    assert (message.headers["webhook-id"], message.headers["content-type"]) == ("j-completed", "application/json")


@pytest.mark.parametrize("answer", [*(Answer(status) for status in (408, 425, 429, 500, 502, 503, 504, 546)), Answer(reset=True)])
def test_a_failure_that_passes_is_survived(answer: Answer) -> None:
    with Inbox(SECRET, answers=[answer, answer]) as inbox:
        delivery = webhook_to(inbox).send(inbox.url, BODY, webhook_id="an-id")
        messages = inbox.messages
    assert (delivery.delivered, delivery.attempts, delivery.status) == (True, 3, 200)
    assert {message.body for message in messages} == {BODY}
    assert {message.headers["webhook-id"] for message in messages} == {"an-id"}
    assert all(message.verified for message in messages)


@pytest.mark.parametrize("status", [204, 299])
def test_any_answer_of_success_is_enough(status: int) -> None:
    with Inbox(SECRET, answers=[Answer(status)]) as inbox:
        assert webhook_to(inbox).send(inbox.url, BODY, webhook_id="an-id").delivered


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 403, 404, 410, 413, 422])
def test_a_refusal_is_final_and_a_redirect_is_one(status: int) -> None:
    with Inbox(SECRET) as elsewhere, Inbox(SECRET, answers=[Answer(status, {"Location": elsewhere.url})]) as inbox:
        delivery = webhook_to(inbox).send(inbox.url, BODY, webhook_id="an-id")
        assert elsewhere.messages == []
    assert (delivery.delivered, delivery.attempts, delivery.status) == (False, 1, status)
    assert str(status) in str(delivery.reason)


def test_a_receiver_that_stays_away_is_tried_seven_times() -> None:
    with Inbox(SECRET, answers=[Answer(503)] * 20) as inbox:
        delivery = webhook_to(inbox).send(inbox.url, BODY, webhook_id="an-id")
    assert (delivery.delivered, delivery.attempts, delivery.status) == (False, 7, 503)


def test_a_receiver_that_is_gone_is_no_error() -> None:
    with Inbox(SECRET) as inbox:
        webhook = webhook_to(inbox)
    delivery = webhook.send(inbox.url, BODY, webhook_id="an-id")
    assert (delivery.delivered, delivery.attempts, delivery.status) == (False, 7, None)
    assert delivery.reason == "The connection to the receiver failed (ConnectError)."


def test_a_receiver_that_hangs_costs_no_more_than_the_deadline() -> None:
    with Inbox(SECRET, answers=[Answer(delay=30.0)] * 9) as inbox:
        delivery = webhook_to(inbox, callback_deadline=0.3).send(inbox.url, BODY, webhook_id="an-id")
    assert (delivery.delivered, delivery.reason) == (False, "The receiver did not answer in time.")


@pytest.mark.parametrize("later", ["3600", "an hour from now", "9" * 400])
def test_a_receiver_that_asks_for_more_time_than_there_is_gets_no_second_try(later: str) -> None:
    # Not among the parameters: a test's name stays the same from one run to the next.
    in_an_hour = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    later = later.replace("an hour from now", in_an_hour)
    with Inbox(SECRET, answers=[Answer(503, {"Retry-After": later})] * 9) as inbox:
        delivery = webhook_to(inbox).send(inbox.url, BODY, webhook_id="an-id")
    assert (delivery.delivered, delivery.attempts) == (False, 1)


def test_a_receiver_gets_the_time_that_it_asks_for_and_a_new_signature() -> None:
    with stamina.set_testing(False), Inbox(SECRET, answers=[Answer(429, {"Retry-After": "2"})]) as inbox:
        delivery = webhook_to(inbox).send(inbox.url, BODY, webhook_id="an-id")
        first, second = inbox.messages
    assert delivery.delivered
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) >= 2
    assert second.headers["webhook-signature"] != first.headers["webhook-signature"]
    assert second.verified


@pytest.mark.parametrize("nonsense", ["soon", "-5", "1.5", "²", ""])
def test_a_retry_after_that_says_nothing_is_passed_over(nonsense: str) -> None:
    with Inbox(SECRET, answers=[Answer(503, {"Retry-After": nonsense.encode().decode("latin-1")})]) as inbox:
        assert webhook_to(inbox).send(inbox.url, BODY, webhook_id="an-id").attempts == 2


def test_the_service_key_goes_to_the_functions_of_supabase_alone() -> None:
    with Inbox(SECRET) as supabase, Inbox(SECRET) as other:
        origin = supabase.url.removesuffix("/job-callback")
        settings = Settings(
            supabase_url=origin, supabase_key=SecretStr(KEY), job_callback_secret=SecretStr(SECRET), callback_allowed_hosts=("127.0.0.1",)
        )
        webhook = Webhook(settings)
        for path in ("/functions/v1/job-callback", "/functions/v1/other?x=1"):
            assert webhook.send(origin + path, BODY, webhook_id="an-id").delivered
        for path in ("/rest/v1/jobs", "/functions/v1/../../rest/v1/jobs", "/functions/v1/%2e%2e/rest", "/functions/v1"):
            assert webhook.send(origin + path, BODY, webhook_id="an-id").delivered
        assert webhook.send(other.url, BODY, webhook_id="an-id").delivered
        keys = [message.headers.get("authorization") for message in supabase.messages + other.messages]
    assert keys == [f"Bearer {KEY}"] * 2 + [None] * 5


def allowing(*hosts: str, **others: Any) -> Webhook:
    return Webhook(Settings(callback_allowed_hosts=hosts, job_callback_secret=SecretStr(SECRET), **others))


def test_without_a_request_of_its_own_a_job_is_called_back_where_the_operator_says() -> None:
    assert allowing("hooks.example", job_callback_url="https://own.example/cb").target(None) == "https://own.example/cb"
    assert Webhook(Settings()).target(None) is None


@pytest.mark.parametrize(
    "url", ["https://hooks.example/x?y=1", "https://HOOKS.example/", "https://hooks.example:8443/", "http://localhost:1/"]
)
def test_a_request_may_name_a_host_that_the_operator_allows(url: str) -> None:
    assert allowing("hooks.example", "localhost").target(url) == url


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
        "http://127.0.0.1/",
        "http://169.254.169.254/",
        "ftp://hooks.example/",
        "file:///etc/passwd",
        "//hooks.example/",
        "https://[hooks.example/",
        "",
    ],
)
def test_any_other_host_counts_for_nothing(url: str) -> None:
    webhook = allowing("hooks.example", job_callback_url="https://own.example/cb")
    assert webhook.target(url) == "https://own.example/cb"
    with pytest.raises(ValueError, match="neither configured nor"):
        webhook.send(url, BODY, webhook_id="an-id")


@pytest.mark.parametrize("host", ["unknown.invalid", "10.0.0.1", "169.254.169.254", "[::ffff:10.0.0.1]", "2130706433", "0x7f.1"])
def test_an_allowed_name_does_not_open_the_operators_network(host: str) -> None:
    delivery = allowing(host.strip("[]")).send(f"https://{host}/", BODY, webhook_id="an-id")
    assert (delivery.delivered, delivery.attempts) == (False, 1)
    assert str(delivery.reason).startswith("The receiver is not contacted")


@pytest.mark.parametrize("webhook_id", ["", "a b", "a.b", "a\r\nx: y", "ü", "x" * 300])
def test_an_id_that_is_not_fit_for_a_header_is_refused(webhook_id: str) -> None:
    with Inbox(SECRET) as inbox, pytest.raises(ValueError, match="webhook's id"):
        webhook_to(inbox).send(inbox.url, BODY, webhook_id=webhook_id)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"job_callback_url": "http://own.example/cb", "job_callback_secret": SECRET}, "must begin with https"),
        ({"job_callback_url": "https://own.example/cb"}, "set JOB_CALLBACK_SECRET"),
        ({"callback_allowed_hosts": ("a.example",)}, "set JOB_CALLBACK_SECRET"),
        ({"job_callback_url": "https://own.example:x", "job_callback_secret": SECRET}, "JOB_CALLBACK_URL is not a URL"),
        ({"job_callback_url": "https://own.example/cb", "job_callback_secret": "whsec_"}, "must go on with base64"),
        ({"job_callback_url": "https://own.example/cb", "job_callback_secret": "whsec_A"}, "must go on with base64"),
    ],
)
def test_what_cannot_work_is_found_at_start(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Webhook(Settings(**settings))


def test_nothing_that_is_shown_holds_a_secret(capfd: pytest.CaptureFixture[str]) -> None:
    with Inbox(SECRET, answers=[Answer(503), Answer(reset=True), Answer(404)]) as inbox:
        webhook = webhook_to(inbox)
        url = inbox.url + "?token=canary-token"
        delivery = Webhook(Settings(job_callback_url=url, job_callback_secret=SecretStr(SECRET))).send(url, BODY, webhook_id="an-id")
    shown = repr(webhook) + repr(vars(webhook)) + repr(delivery) + "".join(capfd.readouterr())
    assert "canary" not in shown
    assert "retry_scheduled" in shown, "the retries were logged"
