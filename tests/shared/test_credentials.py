"""Keys, secrets and URLs of the operator: what is stripped, what is named at start, and how a key is sent."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from pydantic import SecretStr

from shared.credentials import auth_headers
from shared.settings import Settings, SettingsError, check_complete

SECRET = "canary-callback-secret"
SECRET_KEY = "sb_secret_N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz"


def jwt(**claims: Any) -> str:
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + ".c2lnbmF0dXJl"


SERVICE_KEY = jwt(iss="supabase", role="service_role", iat=1_700_000_000, exp=4_000_000_000)


def settings_with(**changes: Any) -> Settings:
    return Settings.model_validate(
        {"supabase_url": "https://x.supabase.co", "supabase_key": SERVICE_KEY, "job_callback_secret": SECRET} | changes
    )


def refusal(**changes: Any) -> str:
    with pytest.raises(SettingsError) as refused:
        check_complete(settings_with(**changes))
    assert not any(len(value) > len("https://") and value.strip() in str(refused.value) for value in changes.values())
    return str(refused.value)


def test_a_legacy_key_is_a_bearer_and_a_secret_key_is_not() -> None:
    assert auth_headers(SecretStr(SERVICE_KEY)) == {"apikey": SERVICE_KEY, "Authorization": f"Bearer {SERVICE_KEY}"}
    assert auth_headers(SecretStr(SECRET_KEY)) == {"apikey": SECRET_KEY}


@pytest.mark.parametrize("space", ["\n", "\r\n", " ", "\t", "\u00a0"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SUPABASE_URL", "https://x.supabase.co"),
        ("SUPABASE_SERVICE_ROLE_KEY", SECRET_KEY),
        ("SUPABASE_SERVICE_KEY", SERVICE_KEY),
        ("JOB_CALLBACK_SECRET", SECRET),
        ("JOB_CALLBACK_URL", "https://own.example/cb"),
        ("STORAGE_BUCKET", "results"),
        ("JOB_TIMEOUT", "30"),
    ],
)
def test_white_space_around_a_variable_is_stripped(monkeypatch: pytest.MonkeyPatch, name: str, value: str, space: str) -> None:
    monkeypatch.setenv(name, f"{space}{value}{space}")
    padded = Settings()
    monkeypatch.setenv(name, value)
    assert padded == Settings()
    monkeypatch.setenv(name, space)
    unset = Settings()
    monkeypatch.delenv(name)
    assert unset == Settings()


@pytest.mark.parametrize("key", [SERVICE_KEY, SECRET_KEY, "sb_secret_x", "a-key-of-a-self-hosted-project"])
def test_service_keys_of_both_kinds_are_accepted(key: str) -> None:
    check_complete(settings_with(supabase_key=key))


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("sb_secret_one\nsb_secret_two", "characters that no key has"),
        (f'"{SECRET_KEY}"', "characters that no key has"),
        ("sb_secret_ключ", "characters that no key has"),
        ("Bearer sb_secret_x", "characters that no key has"),
        ("sb_secret_x\x00", "characters that no key has"),
        ("sb_publishable_x", "publishable key"),
        (jwt(role="anon", exp=4_000_000_000), "key of the role anon"),
        (jwt(role="authenticated", exp=4_000_000_000), "key of the role authenticated"),
        (jwt(role="service_role", exp=1_700_000_000), "has expired"),
    ],
)
def test_a_key_that_cannot_store_results_is_named_at_start(key: str, reason: str) -> None:
    message = refusal(supabase_key=key)
    assert "SUPABASE_SERVICE_ROLE_KEY" in message
    assert reason in message


@pytest.mark.parametrize(
    "url",
    [
        "x.supabase.co", "ftp://x.supabase.co", "https://", "https:///x", "https://x.supabase.co/rest/v1", "https://x.supabase.co/storage/v1/",
        "https://x.supabase.co/functions/v1/job-callback", "https://supabase.com/dashboard/project/x", "https://user:pass@x.supabase.co",
        "https://x.supabase .co", "'https://x.supabase.co'", "https://x.supabase.co:port", "https://x.supabase.co\nhttps://y.supabase.co",
        "https://[x", "https://x.supabase.co?apikey=1", "https://бд.example",
    ],
)  # fmt: skip
def test_a_url_that_is_not_a_project_is_named_at_start(url: str) -> None:
    assert "SUPABASE_URL" in refusal(supabase_url=url)


@pytest.mark.parametrize(
    "url", ["https://x.supabase.co", "https://x.supabase.co/", "http://127.0.0.1:54321", "https://db.example/supabase", "http://[::1]:1"]
)
def test_a_project_url_is_accepted(url: str) -> None:
    check_complete(settings_with(supabase_url=url))


@pytest.mark.parametrize(
    ("secret", "accepted"),
    [("x" * 16, True), ("ü" * 8, True), ("whsec_" + "A" * 24, True), ("x" * 15, False), ("whsec_AAAA", False), ("whsec_???", False)],
)
def test_a_callback_secret_has_sixteen_bytes(secret: str, accepted: bool) -> None:
    if accepted:
        check_complete(settings_with(job_callback_secret=secret))
    else:
        assert "JOB_CALLBACK_SECRET" in refusal(job_callback_secret=secret)


def test_everything_unusable_is_named_at_once() -> None:
    message = refusal(
        supabase_url="x.supabase.co", supabase_key="sb_publishable_x", job_callback_secret="short", job_callback_url="nowhere"
    )
    assert all(name in message for name in ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "JOB_CALLBACK_SECRET", "JOB_CALLBACK_URL"))
