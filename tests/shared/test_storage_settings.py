"""Where results go is chosen by the variables, completely or not at all."""

from __future__ import annotations

import pytest

from shared.settings import Settings, SettingsError, check_complete, load_settings
from shared.storage_settings import BucketLocation, locate_bucket

SECRET = "canary-secret-0123456789"
BUCKET = {"BUCKET_ENDPOINT_URL": "https://s3.eu-west-1.amazonaws.com", "BUCKET_ACCESS_KEY_ID": "AKIA", "BUCKET_SECRET_ACCESS_KEY": SECRET}
SUPABASE = {"SUPABASE_URL": "https://project.example", "SUPABASE_SERVICE_ROLE_KEY": SECRET, "JOB_CALLBACK_SECRET": SECRET}


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "kind"),
    [
        ({}, "disk"),
        (SUPABASE, "supabase"),
        (BUCKET | {"BUCKET_NAME": "results"}, "s3"),
        (BUCKET | {"BUCKET_NAME": "results", "RESULT_STORAGE": "s3"} | SUPABASE, "s3"),
        (BUCKET | {"RESULT_STORAGE": "supabase"} | SUPABASE, "supabase"),
        (SUPABASE | {"RESULT_STORAGE": "inline"}, "inline"),
        (SUPABASE | {"RESULT_STORAGE": "disk"}, "disk"),
    ],
)
def test_the_variables_choose_the_storage(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], kind: str) -> None:
    set_all(monkeypatch, variables)
    assert load_settings().storage_kind == kind


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        (BUCKET | SUPABASE, r"RESULT_STORAGE to supabase or s3 \(both are configured\)"),
        (BUCKET, r"BUCKET_NAME \(needed for results in S3\)"),
        ({"BUCKET_ENDPOINT_URL": "https://b.example"}, "BUCKET_ACCESS_KEY_ID .* BUCKET_SECRET_ACCESS_KEY .* BUCKET_NAME"),
        ({"RESULT_STORAGE": "s3"}, "BUCKET_ENDPOINT_URL .* BUCKET_ACCESS_KEY_ID"),
        ({"RESULT_STORAGE": "supabase"}, "Set SUPABASE_URL"),
    ],
)
def test_an_incomplete_storage_is_named_with_all_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], missing: str
) -> None:
    set_all(monkeypatch, variables)
    with pytest.raises(SettingsError, match=missing) as caught:
        load_settings()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("BUCKET_ENDPOINT_URL", "s3.eu-west-1.amazonaws.com", "must start with https://"),
        ("BUCKET_ENDPOINT_URL", "https://AKIA:canary@s3.example", "must not contain a user name or a password"),
        ("BUCKET_ENDPOINT_URL", "https://s3.example/?token=canary", "must not have a query"),
        ("BUCKET_ACCESS_KEY_ID", "'canary'", "has characters that no key has"),
        ("BUCKET_SECRET_ACCESS_KEY", "canary canary", "has characters that no key has"),
    ],
)
def test_an_unusable_bucket_variable_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, problem: str
) -> None:
    set_all(monkeypatch, BUCKET | {"BUCKET_NAME": "results", variable: value})
    with pytest.raises(SettingsError, match=f"{variable} {problem}") as caught:
        load_settings()
    assert "canary" not in str(caught.value)


def test_keys_of_the_bucket_are_masked_and_stripped(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, BUCKET | {"BUCKET_NAME": "results", "BUCKET_SECRET_ACCESS_KEY": f" {SECRET}\n"})
    settings = load_settings()
    assert settings.bucket_secret_access_key is not None
    assert settings.bucket_secret_access_key.get_secret_value() == SECRET
    assert not {SECRET, "AKIA"} & set(repr(settings).split("'"))
    assert "amazonaws" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "name", "expected"),
    [
        ("https://s3.eu-west-1.amazonaws.com", "b-1", ("https://s3.eu-west-1.amazonaws.com", "b-1", "eu-west-1")),
        # As RunPod's SDK and its workers document it: with the bucket in the host.
        ("https://my-bucket.s3.eu-west-1.amazonaws.com", None, ("https://s3.eu-west-1.amazonaws.com", "my-bucket", "eu-west-1")),
        ("https://my-bucket.s3.eu-west-1.amazonaws.com", "my-bucket", ("https://s3.eu-west-1.amazonaws.com", "my-bucket", "eu-west-1")),
        ("https://my.bucket.s3.amazonaws.com", None, ("https://s3.amazonaws.com", "my.bucket", "us-east-1")),
        ("https://s3.dualstack.eu-west-1.amazonaws.com", "b", ("https://s3.dualstack.eu-west-1.amazonaws.com", "b", "eu-west-1")),
        # As Cloudflare shows it: with the bucket in the path.
        ("https://acc.r2.cloudflarestorage.com/res", None, ("https://acc.r2.cloudflarestorage.com", "res", "us-east-1")),
        ("https://acc.r2.cloudflarestorage.com/res", "res", ("https://acc.r2.cloudflarestorage.com", "res", "us-east-1")),
        ("https://s3api-eur-is-1.runpod.io", "volume", ("https://s3api-eur-is-1.runpod.io", "volume", "EUR-IS-1")),
        ("https://b.nyc3.digitaloceanspaces.com", "b", ("https://nyc3.digitaloceanspaces.com", "b", "us-east-1")),
        ("https://s3.us-west-004.backblazeb2.com", "b", ("https://s3.us-west-004.backblazeb2.com", "b", "us-west-004")),
        ("http://minio.internal:9000", "b", ("http://minio.internal:9000", "b", "us-east-1")),
        ("https://example.org/minio", "b", ("https://example.org/minio", "b", "us-east-1")),
        ("https://s3.example.org", None, None),
        ("https://[", "b", None),
    ],
)
def test_the_bucket_is_found_in_the_url_as_each_provider_writes_it(
    url: str, name: str | None, expected: tuple[str, str, str] | None
) -> None:
    assert locate_bucket(url, name) == (BucketLocation(*expected) if expected else None)
    if expected:
        assert locate_bucket(url, name, "other") == BucketLocation(*expected[:2], "other")


def test_the_validity_of_urls_ends_where_signatures_do() -> None:
    with pytest.raises(ValueError, match="604800"):
        Settings(bucket_url_expiry=604_801)
    check_complete(Settings(bucket_url_expiry=0))
