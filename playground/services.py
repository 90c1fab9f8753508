"""The services that `playground.submit` sends requests to: an endpoint of RunPod, or a Supabase project."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

RUNPOD_API = "https://api.runpod.ai/v2"


@dataclass(frozen=True)
class Asset:
    """An asset: a text, or a file and how to download it."""

    name: str
    content: str | None = None
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """The state of a submitted job.

    Attributes:
        status: As the service calls it.
        ended: Whether it is final.
        percent: Progress from 0 to 100, if known.
        error: Why it failed.
        assets: What it made.
    """

    status: str
    ended: bool
    percent: float | None = None
    error: str | None = None
    assets: tuple[Asset, ...] = ()


class Service(Protocol):
    """Takes jobs and describes them."""

    def submit(self, request: Mapping[str, Any]) -> str:
        """Submits a request and returns the job's id."""

    def state(self, job_id: str) -> State:
        """Returns the state of a job."""


class Endpoint:
    """A RunPod endpoint.

    Args:
        endpoint_id: Its id.
        environment: Has `RUNPOD_API_KEY`.
    """

    def __init__(self, endpoint_id: str, environment: Mapping[str, str]) -> None:
        self._base = f"{environment.get('RUNPOD_API_URL', RUNPOD_API)}/{endpoint_id}"
        self._headers = {"Authorization": f"Bearer {_required(environment, 'RUNPOD_API_KEY')}"}
        self._storage = environment.get("SUPABASE_URL")
        self._key = environment.get("SUPABASE_SERVICE_ROLE_KEY", "")

    def submit(self, request: Mapping[str, Any]) -> str:
        """Submits a worker's request, with or without `input` around it."""
        body = request if "input" in request else {"input": request}
        job_id: str = _answer(httpx.post(f"{self._base}/run", json=body, headers=self._headers, timeout=30))["id"]
        return job_id

    def state(self, job_id: str) -> State:
        """Returns the state of a job."""
        job = _answer(httpx.get(f"{self._base}/status/{job_id}", headers=self._headers, timeout=30))
        status, output = job["status"], job.get("output") or {}
        if status not in ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"):
            return State(status, False, output.get("percent") if isinstance(output, dict) else None)
        payload = output[-1] if isinstance(output, list) else output
        error = None if status == "COMPLETED" else str(job.get("error") or status)
        return State(status, True, assets=tuple(map(self._asset, payload.get("assets", ()))), error=error)

    def _asset(self, asset: Mapping[str, Any]) -> Asset:
        if asset["type"] == "text":
            return Asset(f"{asset['asset_index']}.txt", content=asset["content"])
        path = asset["temp_storage_path"]
        name = path.rpartition("/")[2]
        if self._storage is None:
            return Asset(name)
        headers = {"apikey": self._key} | ({} if self._key.startswith("sb_secret_") else {"Authorization": f"Bearer {self._key}"})
        return Asset(name, url=f"{self._storage}/storage/v1/object/authenticated/workspace-temp/{path}", headers=headers)


class Project:
    """A Supabase project, as one of its users.

    Args:
        environment: Has `SUPABASE_URL`, `SUPABASE_PUBLISHABLE_KEY`, `SUPABASE_EMAIL` and `SUPABASE_PASSWORD`.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._url = _required(environment, "SUPABASE_URL")
        key = _required(environment, "SUPABASE_PUBLISHABLE_KEY")
        body = {"email": _required(environment, "SUPABASE_EMAIL"), "password": _required(environment, "SUPABASE_PASSWORD")}
        url = f"{self._url}/auth/v1/token?grant_type=password"
        session = _answer(httpx.post(url, json=body, headers={"apikey": key}, timeout=30))
        self._headers = {"apikey": key, "Authorization": f"Bearer {session['access_token']}"}

    def submit(self, request: Mapping[str, Any]) -> str:
        """Submits presets and a prompt to `queue-job`."""
        job_id: str = self._call("queue-job", request)["job_id"]
        return job_id

    def state(self, job_id: str) -> State:
        """Returns the state of a job."""
        job = self._call("job-status", {"job_id": job_id})
        assets = tuple(
            Asset(f"{asset['asset_index']}{_extension(asset)}", content=asset["content"], url=asset["url"]) for asset in job["assets"]
        )
        percent = (job.get("progress") or {}).get("percent")
        return State(job["status"], job["status"] in ("completed", "failed", "cancelled"), percent, job["error_message"], assets)

    def _call(self, function: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return _answer(httpx.post(f"{self._url}/functions/v1/{function}", json=body, headers=self._headers, timeout=60))


def _extension(asset: Mapping[str, Any]) -> str:
    return Path(asset["temp_storage_path"] or "text.txt").suffix


def _answer(response: httpx.Response) -> dict[str, Any]:
    if response.is_error:
        sys.exit(f"{response.request.url.path}: HTTP {response.status_code}: {response.text}")
    answer: dict[str, Any] = response.json()
    return answer


def _required(environment: Mapping[str, str], name: str) -> str:
    if not environment.get(name):
        sys.exit(f"Set {name}. See `python -m playground.submit --help`.")
    return environment[name].rstrip("/")
