"""Commands with an invalid configuration name the variable and never print its value."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.doubles.fake_storage import FakeStorage
from tests.doubles.processes import clean_environment, run_module
from tests.doubles.s3_server import FaultProxy, S3Server

COMMANDS = {
    "start": ("handlers.sdxl.handler",),
    "check": ("handlers.chat.handler", "--check", "weights"),
    "redeliver": ("shared.redeliver",),
}
URL, KEY, SECRET = "https://user:canary-password@127.0.0.1:1", "canary-service-key", "canary-callback-secret"
COMPLETE = {"SUPABASE_URL": URL, "SUPABASE_SERVICE_ROLE_KEY": KEY, "JOB_CALLBACK_SECRET": SECRET, "UPLOAD_DEADLINE": "0.1"}
BUCKET = {
    "BUCKET_ENDPOINT_URL": "http://127.0.0.1:1", "BUCKET_NAME": "results", "BUCKET_ACCESS_KEY_ID": KEY,
    "BUCKET_SECRET_ACCESS_KEY": SECRET, "UPLOAD_DEADLINE": "0.1",
}  # fmt: skip
INVALID: dict[str, dict[str, str]] = {
    "invalid values": {
        "UPLOAD_DEADLINE": "canary-number", "LOG_LEVEL": "canary-level", "DEVICE": "canary-device",
        "CHAT_INSTRUCT_NAME": "canary name/", "OUTBOX_MAX_BYTES": "canary-bytes",
        "STORE_CALLBACK": "canary-yes",
    },
    "malformed URLs": COMPLETE | {"SUPABASE_URL": "canary-url", "JOB_CALLBACK_URL": "canary-callback"},
    "URL without key": {"SUPABASE_URL": URL},
    "key without URL": {"SUPABASE_SERVICE_ROLE_KEY": KEY},
    "malformed secret": COMPLETE | {"JOB_CALLBACK_SECRET": "whsec_canary!"},
    "callback URL with http": COMPLETE | {"JOB_CALLBACK_URL": "http://host.example/?token=canary-token"},
    "unreachable project": COMPLETE,
    "key with a line break": COMPLETE | {"SUPABASE_SERVICE_ROLE_KEY": f"{KEY}\nX: y"},
    "invalid bucket": {
        "BUCKET_ENDPOINT_URL": f"{URL}/?token=canary-token", "BUCKET_NAME": "canary bucket/", "BUCKET_URL_EXPIRY": "canary-number",
        "BUCKET_ACCESS_KEY_ID": KEY, "BUCKET_SECRET_ACCESS_KEY": SECRET, "RESULT_STORAGE": "canary-kind",
    },
    "bucket with malformed keys": BUCKET | {"BUCKET_ACCESS_KEY_ID": f"{KEY} x", "BUCKET_SECRET_ACCESS_KEY": f"{SECRET}\nX: y"},
    "unreachable bucket": BUCKET,
    "key that is not ASCII": COMPLETE | {"SUPABASE_SERVICE_ROLE_KEY": f"{KEY}-ключ", "JOB_CALLBACK_SECRET": f"{SECRET}-ключ"},
}  # fmt: skip


def output_of(tmp_path: Path, command: str, **variables: str) -> str:
    """Runs a command and returns its output."""
    environment = clean_environment(
        **{"MODELS_DIR": str(tmp_path), "OUTBOX_DIR": str(tmp_path / "outbox"), "OUTPUT_DIR": "out"} | variables
    )
    done = run_module(*COMMANDS[command], folder=tmp_path, environment=environment)
    return done.stdout + done.stderr


def assert_no_secret(text: str) -> None:
    assert "canary" not in text
    assert "Traceback" not in text


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_an_invalid_configuration_is_not_printed(tmp_path: Path, command: str) -> None:
    for variables in INVALID.values():
        assert_no_secret(output_of(tmp_path, command, **variables))


def test_every_invalid_variable_is_named(tmp_path: Path) -> None:
    expected = {
        "invalid values": set(INVALID["invalid values"]),
        "malformed URLs": {"SUPABASE_URL", "JOB_CALLBACK_URL"},
        "invalid bucket": {"BUCKET_NAME", "BUCKET_URL_EXPIRY", "RESULT_STORAGE"},
        "bucket with malformed keys": {"BUCKET_ACCESS_KEY_ID", "BUCKET_SECRET_ACCESS_KEY"},
    }
    for case, names in expected.items():
        text = output_of(tmp_path, "start", **INVALID[case])
        assert [name for name in names if name not in text] == []


def test_a_rejected_key_is_not_printed(tmp_path: Path) -> None:
    with FakeStorage("another-key") as storage:
        text = output_of(tmp_path, "start", **COMPLETE | {"SUPABASE_URL": storage.url, "UPLOAD_DEADLINE": "5"})
    assert_no_secret(text)
    assert "the worker's key was rejected" in text


def test_a_rejected_key_of_a_bucket_is_not_printed(tmp_path: Path) -> None:
    (tmp_path / "buckets").mkdir()
    with S3Server(tmp_path / "buckets").running() as server, FaultProxy(server) as proxy:
        text = output_of(tmp_path, "start", **proxy.environment | {"BUCKET_SECRET_ACCESS_KEY": SECRET})
    assert_no_secret(text)
    assert "the secret access key is not the one of the access key id" in text
