"""docs/operate.md names events, settings and error codes that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.errors import ERRORS
from shared.settings import Settings

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/operate.md").read_text(encoding="utf-8")
CODE = "\n".join(path.read_text(encoding="utf-8") for folder in ("shared", "handlers") for path in (ROOT / folder).rglob("*.py"))
EVENTS = re.findall(r"^\| `([^`]+)` \| (?:info|warning|error)[^|]*\| ([^|]*) \|", PAGE, flags=re.MULTILINE)
FIELDS_OF_ALL = {"error_type", "where"}  # of `log_error`


@pytest.mark.parametrize(("event", "fields"), EVENTS, ids=[event for event, _ in EVENTS])
def test_an_event_is_logged_with_its_fields(event: str, fields: str) -> None:
    calls = re.findall(rf'"{re.escape(event)}"((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)', CODE)
    assert calls, "no such event"
    named = set(re.findall(r"`(\w+)`", fields)) - FIELDS_OF_ALL
    assert {field for field in named if not any(f"{field}=" in call for call in calls)} == set()


def test_every_warning_and_error_of_a_worker_is_on_the_page() -> None:
    logged = set(re.findall(r'logger\(\)\.(?:warning|error)\(\s*"([^"]+)"', CODE)) | set(re.findall(r'log_error\("([^"]+)"', CODE))
    listed = {event for event, _ in EVENTS}
    assert logged - listed == set()


def test_variables_and_error_codes_exist() -> None:
    known = (
        {name.upper() for name in Settings.model_fields}
        | {error.code for error in ERRORS}
        | {"SUPABASE_SERVICE_ROLE_KEY", "DEBUG", "OTEL_RESOURCE_ATTRIBUTES"}
    )
    assert set(re.findall(r"`([A-Z][A-Z_]{3,})(?:=[^`]*)?`", PAGE)) - known == set()
