"""Reading the environment, and reporting all errors in one message."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shared.settings import Settings, SettingsError, load_settings
from tests.doubles.processes import clean_environment

SECRET = "canary-secret-value"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, field in Settings.model_fields.items():
        monkeypatch.delenv(name.upper(), raising=False)
        for alias in getattr(field.validation_alias, "choices", []):
            monkeypatch.delenv(alias, raising=False)


def test_defaults_use_local_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    assert settings.supabase_url is None
    assert settings.callback_url is None
    assert str(settings.output_dir) == "out"


def test_all_missing_variables_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", "https://project.example")
    with pytest.raises(SettingsError, match=r"SUPABASE_SERVICE_ROLE_KEY .* and JOB_CALLBACK_SECRET"):
        load_settings()


def test_service_key_requires_the_project_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", SECRET)
    with pytest.raises(SettingsError, match="SUPABASE_URL") as caught:
        load_settings()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_SERVICE_KEY"])
def test_service_key_has_two_variable_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("SUPABASE_URL", "https://project.example/")
    monkeypatch.setenv("JOB_CALLBACK_SECRET", SECRET)
    monkeypatch.setenv(name, SECRET)
    settings = load_settings()
    assert settings.supabase_key is not None
    assert settings.callback_url == "https://project.example/functions/v1/job-callback"


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", "https://project.example")
    monkeypatch.setenv("SUPABASE_SERVICE_KEY", SECRET)
    monkeypatch.setenv("JOB_CALLBACK_SECRET", SECRET)
    settings = load_settings()
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings.model_dump())


def test_malformed_values_are_reported_by_name_without_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_TIMEOUT", SECRET)
    monkeypatch.setenv("WAN_DEFAULT_FPS", "60")
    with pytest.raises(SettingsError, match=r"JOB_TIMEOUT.*WAN_DEFAULT_FPS|WAN_DEFAULT_FPS.*JOB_TIMEOUT") as caught:
        load_settings()
    assert SECRET not in str(caught.value)


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", "")
    monkeypatch.setenv("JOB_CONCURRENCY", "")
    assert load_settings().job_concurrency is None


def test_hosts_are_split_at_commas_and_lowercased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFERENCE_ALLOWED_HOSTS", "Images.example, cdn.example,")
    assert load_settings().reference_allowed_hosts == ("images.example", "cdn.example")


@pytest.mark.parametrize(("allowed", "offline"), [("1", "False"), ("true", "False"), ("0", "True"), ("", "True")])
def test_hub_access_requires_allow_downloads(allowed: str, offline: str) -> None:
    code = (
        "from shared.settings import prepare_environment; prepare_environment();"
        "from huggingface_hub import constants; print(constants.HF_HUB_OFFLINE)"
    )
    environment = clean_environment(ALLOW_DOWNLOADS=allowed, HF_HUB_OFFLINE="1")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == offline


def test_settings_are_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.job_concurrency = 2  # type: ignore[misc]
