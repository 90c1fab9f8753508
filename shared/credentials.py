"""The operator's keys, secrets and URLs: what is wrong with them, and the headers that a Supabase key is sent in.

Supabase has two kinds of service keys. A legacy one is a JWT, which gateways take as a bearer token. A secret key, `sb_secret_…`, is not,
and gateways that verify JWTs answer 401 if it is sent as one: it belongs into `apikey` alone.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr

MIN_SECRET_BYTES: Final = 16

_SECRET_KEY = "sb_secret_"
_PUBLISHABLE_KEY = "sb_publishable_"
_STANDARD_SECRET = "whsec_"
# The characters of a bearer token, RFC 6750: anything else is not a key, or cannot be a header.
_KEY = re.compile(r"[A-Za-z0-9._~+/=-]+")
_API_PATH = re.compile(r"/(rest|storage|auth|functions|realtime|graphql)/v1")


class Configured(Protocol):
    """The settings that are checked here."""

    @property
    def supabase_url(self) -> str | None: ...  # noqa: D102
    @property
    def supabase_key(self) -> SecretStr | None: ...  # noqa: D102
    @property
    def bucket_endpoint_url(self) -> str | None: ...  # noqa: D102
    @property
    def bucket_access_key_id(self) -> SecretStr | None: ...  # noqa: D102
    @property
    def bucket_secret_access_key(self) -> SecretStr | None: ...  # noqa: D102
    @property
    def job_callback_url(self) -> str | None: ...  # noqa: D102
    @property
    def job_callback_secret(self) -> SecretStr | None: ...  # noqa: D102
    @property
    def job_callback_secret_previous(self) -> SecretStr | None: ...  # noqa: D102
    @property
    def chat_engine_url(self) -> str | None: ...  # noqa: D102
    @property
    def otel_exporter_otlp_endpoint(self) -> str | None: ...  # noqa: D102
    @property
    def otel_exporter_otlp_traces_endpoint(self) -> str | None: ...  # noqa: D102


def find_problems(settings: Configured) -> list[str]:
    """Returns a sentence for each value that is set and cannot be used. None shows the value."""
    found = {
        "SUPABASE_URL": settings.supabase_url and project_url_problem(settings.supabase_url),
        "SUPABASE_SERVICE_ROLE_KEY": settings.supabase_key and key_problem(settings.supabase_key),
        "BUCKET_ENDPOINT_URL": settings.bucket_endpoint_url and server_url_problem(settings.bucket_endpoint_url),
        "BUCKET_ACCESS_KEY_ID": settings.bucket_access_key_id and characters_problem(settings.bucket_access_key_id),
        "BUCKET_SECRET_ACCESS_KEY": settings.bucket_secret_access_key and characters_problem(settings.bucket_secret_access_key),
        "JOB_CALLBACK_URL": settings.job_callback_url and url_problem(settings.job_callback_url),
        "JOB_CALLBACK_SECRET": settings.job_callback_secret and secret_problem(settings.job_callback_secret),
        "JOB_CALLBACK_SECRET_PREVIOUS": settings.job_callback_secret_previous and secret_problem(settings.job_callback_secret_previous),
        "CHAT_ENGINE_URL": settings.chat_engine_url and url_problem(settings.chat_engine_url),
        "OTEL_EXPORTER_OTLP_ENDPOINT": settings.otel_exporter_otlp_endpoint and server_url_problem(settings.otel_exporter_otlp_endpoint),
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": (
            settings.otel_exporter_otlp_traces_endpoint and url_problem(settings.otel_exporter_otlp_traces_endpoint)
        ),
    }
    return [f"{name} {problem}." for name, problem in found.items() if problem]


def auth_headers(key: SecretStr) -> dict[str, str]:
    """Returns the headers that authenticate at a Supabase project. Send them to the origin of `SUPABASE_URL` only."""
    value = key.get_secret_value()
    return {"apikey": value} if value.startswith(_SECRET_KEY) else {"apikey": value, "Authorization": f"Bearer {value}"}


def key_problem(key: SecretStr) -> str | None:
    """Returns why a value cannot be the service key, without showing it."""
    value = key.get_secret_value()
    if (problem := characters_problem(key)) is not None:
        return problem
    if value.startswith(_PUBLISHABLE_KEY):
        return "is a publishable key, which may not store results: set a secret key (sb_secret_…)"
    claims = _jwt_claims(value)
    if claims.get("role") in ("anon", "authenticated"):
        return f"is the key of the role {claims['role']}: set the service_role key or a secret key (sb_secret_…)"
    expires = claims.get("exp")
    if isinstance(expires, int | float) and expires < time.time():
        return "has expired: set a new one"
    return None


def characters_problem(key: SecretStr) -> str | None:
    """Returns why a value cannot be any key, without showing it."""
    known = _KEY.fullmatch(key.get_secret_value())
    return None if known else "has characters that no key has, such as quotes, spaces or line breaks: copy it again"


def secret_problem(secret: SecretStr) -> str | None:
    """Returns why a value cannot be the callback secret, without showing it."""
    value = secret.get_secret_value()
    if value.startswith(_STANDARD_SECRET):
        try:
            size = len(base64.b64decode(value.removeprefix(_STANDARD_SECRET), validate=True))
        except (binascii.Error, ValueError):
            return f"starts with {_STANDARD_SECRET}, which base64 must follow: correct it"
    else:
        size = len(value.encode(errors="surrogateescape"))
    return f"has {size} bytes and needs {MIN_SECRET_BYTES} or more: set a longer one" if size < MIN_SECRET_BYTES else None


def project_url_problem(url: str) -> str | None:
    """Returns why a URL cannot be `SUPABASE_URL`, without showing it."""
    problem = url_problem(url)
    if problem is None and _API_PATH.search(url):
        return "must be the project's own URL, such as https://PROJECT.supabase.co, without the path of one of its APIs"
    if problem is None and urlsplit(url).hostname in ("supabase.com", "app.supabase.com"):
        return "is a page of the dashboard: set the project's own URL, such as https://PROJECT.supabase.co"
    return problem or _query_problem(url)


def server_url_problem(url: str) -> str | None:
    """Returns why a URL cannot be the base of other URLs, without showing it."""
    return url_problem(url) or _query_problem(url)


def _query_problem(url: str) -> str | None:
    return "must not have a query or a fragment" if urlsplit(url).query or urlsplit(url).fragment else None


def url_problem(url: str) -> str | None:
    """Returns why a value cannot be the URL of a server, without showing it."""
    if not url.isascii() or not url.isprintable() or set(url) & set(" \"'<>\\^`{|}"):
        return "has characters that no URL has, such as quotes, spaces or line breaks: copy it again"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not a valid URL: copy it again"
    if parts.scheme not in ("http", "https") or not host:
        return "must start with https:// and name a host"
    return "must not contain a user name or a password" if "@" in parts.netloc else None


def _jwt_claims(token: str) -> dict[str, Any]:
    """Returns the claims of a JWT without verifying it; nothing if it is not one."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}
