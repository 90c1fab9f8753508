"""The settings of the storage of results: a Supabase bucket, an S3-compatible bucket, a folder, or the payload itself."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.credentials import url_problem

StorageKind = Literal["supabase", "s3", "disk", "inline"]

MAX_URL_EXPIRY: Final = 604_800
"""Seven days, the longest validity of a presigned URL in Signature Version 4."""

# RunPod's S3 endpoints are named by the data center, and their regions are the same name in capitals.
_RUNPOD_HOST = re.compile(r"s3api-([a-z0-9-]+)\.runpod\.io")
_REGION = re.compile(r"(?:^|\.)s3[.-](?:dualstack\.)?([a-z]+-[a-z0-9-]+)\.")
_BUCKET_IN_HOST = re.compile(r"(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])\.(?P<host>s3[.-].+)")
_DEFAULT_REGION = "us-east-1"


def _strip_slash(value: object) -> object:
    return value.rstrip("/") if isinstance(value, str) else value


Url = Annotated[str, BeforeValidator(_strip_slash)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
BucketName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$")]


@dataclass(frozen=True, slots=True)
class BucketLocation:
    """Where an S3-compatible bucket is.

    Attributes:
        endpoint: The service's URL, without the bucket.
        bucket: The bucket's name.
        region: The region that requests are signed for.
    """

    endpoint: str = field(repr=False)
    bucket: str
    region: str


class StorageSettings(BaseSettings):
    """The part of `Settings` that says where results go."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True)

    result_storage: Literal["auto", "supabase", "s3", "disk", "inline"] = Field(
        "auto",
        description="Storage of results: `supabase`, `s3`, `disk` (`OUTPUT_DIR`), or `inline`, in the payload itself as base64; `auto` is "
        "`supabase` if `SUPABASE_URL` is set, `s3` if `BUCKET_ENDPOINT_URL` is, else `disk`.",
    )
    supabase_url: Url | None = Field(None, repr=False, description="URL of the Supabase project.")
    supabase_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_SERVICE_KEY"),
        description="Service key of the project: a secret key, `sb_secret_…`, or the legacy `service_role` key.",
    )
    storage_bucket: str = Field("workspace-temp", description="Bucket for results in Supabase.")
    bucket_endpoint_url: Url | None = Field(
        None,
        repr=False,
        description="URL of an S3-compatible service, with or without the bucket: `https://s3.eu-west-1.amazonaws.com`, "
        "`https://my-bucket.s3.eu-west-1.amazonaws.com`, `https://ACCOUNT.r2.cloudflarestorage.com`.",
    )
    bucket_access_key_id: SecretStr | None = Field(None, description="Access key id for the S3-compatible service.")
    bucket_secret_access_key: SecretStr | None = Field(None, description="Secret access key for the S3-compatible service.")
    bucket_name: BucketName | None = Field(
        None, description="Bucket for results in the S3-compatible service, unless `BUCKET_ENDPOINT_URL` names it."
    )
    bucket_region: str | None = Field(None, description="Region of the bucket; by default the one that the URL names, else `us-east-1`.")
    bucket_url_expiry: int = Field(
        MAX_URL_EXPIRY,
        ge=0,
        le=MAX_URL_EXPIRY,
        description="Seconds that the presigned URLs in payloads are valid; 0 for none, as for RunPod's network volumes, which have none.",
    )
    output_dir: Path = Field(Path("out"), description="Folder for results with `disk`.")
    upload_deadline: Seconds = Field(90.0, description="Seconds for one upload, including retries.")
    store_callback: bool = Field(False, description="Store the payload with the assets as `callback.json`; `disk` always does.")

    @property
    def storage_kind(self) -> StorageKind:
        """Where results go: `RESULT_STORAGE`, or what `auto` stands for."""
        if self.result_storage != "auto":
            return self.result_storage
        return "supabase" if self.supabase_url is not None else "s3" if self.bucket_endpoint_url is not None else "disk"

    @property
    def bucket_location(self) -> BucketLocation | None:
        """The S3-compatible bucket; None if the URL or the name is missing."""
        return locate_bucket(self.bucket_endpoint_url, self.bucket_name, self.bucket_region)


def locate_bucket(url: str | None, name: str | None = None, region: str | None = None) -> BucketLocation | None:
    """Separates the bucket from the URL of a service. RunPod's documentation has it in the host, other providers show it in the path.

    Args:
        url: The URL. There is no location without a valid one.
        name: The bucket's name, if it is known.
        region: The region, if it is known.
    """
    if url is None or url_problem(url) is not None:
        return None
    parts = urlsplit(url)
    host, path = parts.netloc, parts.path.strip("/")
    if name is not None and host.startswith(f"{name}."):
        host = host.removeprefix(f"{name}.")
    elif name is None and (found := _BUCKET_IN_HOST.fullmatch(host)):
        name, host = found["bucket"], found["host"]
    elif path and "/" not in path and name in (None, path):
        name, path = path, ""
    endpoint = f"{parts.scheme}://{host}" + (f"/{path}" if path else "")
    return BucketLocation(endpoint, name, region or _region_of(host)) if name is not None else None


def missing_storage_variables(settings: StorageSettings) -> list[str]:
    """Returns what has to be set for the chosen storage, each with its reason."""
    missing = []
    if settings.result_storage == "auto" and settings.supabase_url is not None and settings.bucket_endpoint_url is not None:
        missing.append("RESULT_STORAGE to supabase or s3 (both are configured)")
    if settings.supabase_url is not None and settings.supabase_key is None:
        missing.append("SUPABASE_SERVICE_ROLE_KEY (needed with SUPABASE_URL)")
    if settings.supabase_url is None and (settings.supabase_key is not None or settings.storage_kind == "supabase"):
        missing.append("SUPABASE_URL (needed with SUPABASE_SERVICE_ROLE_KEY)" if settings.supabase_key else "SUPABASE_URL")
    return missing + (_missing_bucket_variables(settings) if settings.storage_kind == "s3" else [])


def _missing_bucket_variables(settings: StorageSettings) -> list[str]:
    needed = {
        "BUCKET_ENDPOINT_URL": settings.bucket_endpoint_url,
        "BUCKET_ACCESS_KEY_ID": settings.bucket_access_key_id,
        "BUCKET_SECRET_ACCESS_KEY": settings.bucket_secret_access_key,
        "BUCKET_NAME": settings.bucket_name or settings.bucket_location,
    }
    return [f"{name} (needed for results in S3)" for name, value in needed.items() if value is None]


def _region_of(host: str) -> str:
    if found := _RUNPOD_HOST.fullmatch(host):
        return found[1].upper()
    found = _REGION.search(host)
    return found[1] if found else _DEFAULT_REGION
