"""What does not start, or only looks, or delivers what waits, says which variable is wrong and never what is in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.doubles.fake_storage import FakeStorage
from tests.doubles.processes import clean_environment

COMMANDS = {
    "start": ("handlers.sdxl.handler",),
    "check": ("handlers.chat.handler", "--check", "weights"),
    "redeliver": ("shared.redeliver",),
}
URL, KEY, SECRET = "https://user:canary-password@127.0.0.1:1", "canary-service-key", "canary-callback-secret"
WHOLE = {"SUPABASE_URL": URL, "SUPABASE_SERVICE_ROLE_KEY": KEY, "JOB_CALLBACK_SECRET": SECRET, "UPLOAD_DEADLINE": "0.1"}
WRONG: dict[str, dict[str, str]] = {
    "values of no meaning": {
        "UPLOAD_DEADLINE": "canary-number", "LOG_LEVEL": "canary-level", "SUPABASE_URL": "canary-url", "DEVICE": "canary-device",
        "CHAT_INSTRUCT_NAME": "canary name/", "OUTBOX_MAX_BYTES": "canary-bytes", "JOB_CALLBACK_URL": "canary-callback",
        "STORE_CALLBACK": "canary-yes",
    },
    "a URL without its key": {"SUPABASE_URL": URL},
    "a key without its URL": {"SUPABASE_SERVICE_ROLE_KEY": KEY},
    "a secret that is none": WHOLE | {"JOB_CALLBACK_SECRET": "whsec_canary!"},
    "a callback by plain http": WHOLE | {"JOB_CALLBACK_URL": "http://host.example/?token=canary-token"},
    "a project that is not there": WHOLE,
    "a key that no header takes": WHOLE | {"SUPABASE_SERVICE_ROLE_KEY": f"{KEY}\nX: y"},
    "a key that is not ASCII": WHOLE | {"SUPABASE_SERVICE_ROLE_KEY": f"{KEY}-ключ", "JOB_CALLBACK_SECRET": f"{SECRET}-ключ"},
}  # fmt: skip


def said(tmp_path: Path, command: str, **variables: str) -> str:
    """Everything that a command prints."""
    environment = clean_environment(
        **{"MODELS_DIR": str(tmp_path), "OUTBOX_DIR": str(tmp_path / "outbox"), "OUTPUT_DIR": "out"} | variables
    )
    done = subprocess.run(
        [sys.executable, "-m", *COMMANDS[command]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=100
    )
    return done.stdout + done.stderr


def is_private(text: str) -> None:
    assert "canary" not in text
    assert "Traceback" not in text


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_configuration_is_not_repeated(tmp_path: Path, command: str) -> None:
    for wrong in WRONG.values():
        is_private(said(tmp_path, command, **wrong))


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    text = said(tmp_path, "start", **WRONG["values of no meaning"])
    assert [name for name in WRONG["values of no meaning"] if name not in text] == []


def test_a_key_that_is_refused_is_not_repeated(tmp_path: Path) -> None:
    with FakeStorage("another-key") as storage:
        text = said(tmp_path, "start", **WHOLE | {"SUPABASE_URL": storage.url, "UPLOAD_DEADLINE": "5"})
    is_private(text)
    assert "the worker's key was rejected" in text
