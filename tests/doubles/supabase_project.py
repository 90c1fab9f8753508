"""A Supabase project on loopback: real edge functions in Deno and a real database, with fakes of Auth and Storage behind one gateway."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import httpx

from playground.loopback import LoopbackServer, RequestHandler
from tests.doubles.deno import CONFIG, deno_environment, executable
from tests.doubles.fake_storage import FakeStorage, StoredObject
from tests.doubles.postgres import PROJECT, Database

SERVICE_KEY = "sb_secret_canary"
PUBLISHABLE_KEY = "sb_publishable_canary"
RUNPOD_KEY = "canary-runpod-api-key"
CALLBACK_SECRET = "canary-callback-secret-0123456789"
_JWT_SECRET = b"canary-secret-of-legacy-tokens"
_JOBS = "select id, job_type, status, attempts, error_code, error_message from public.jobs order by created_at desc"
_NOT_FORWARDED = {"accept-encoding", "connection", "keep-alive", "transfer-encoding", "content-length", "host"}


def token(user_id: str, tier: str = "pro") -> str:
    """Returns a user's token, as the Auth service of a project with legacy keys signs it."""
    claims = {"sub": user_id, "role": "authenticated", "aud": "authenticated", "app_metadata": {"tier": tier}}
    parts = [{"alg": "HS256", "typ": "JWT"}, {**claims, "iat": int(time.time()), "exp": int(time.time()) + 3600}]
    message = b".".join(_base64url(json.dumps(part).encode()) for part in parts)
    return (message + b"." + _base64url(hmac.digest(_JWT_SECRET, message, hashlib.sha256))).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class User:
    """A user of the project.

    Args:
        project: The project.
        user_id: Their id.
    """

    def __init__(self, project: SupabaseProject, user_id: str) -> None:
        self.id = user_id
        self.token = token(user_id)
        self._project = project

    def call(self, function: str, body: Mapping[str, Any]) -> httpx.Response:
        """Calls an edge function as the frontend does."""
        headers = {"Authorization": f"Bearer {self.token}", "apikey": PUBLISHABLE_KEY}
        return httpx.post(f"{self._project.url}/functions/v1/{function}", json=body, headers=headers, timeout=30)

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Returns the rows that this user may see."""
        claims = json.dumps({"sub": self.id, "role": "authenticated"})
        as_user = f"begin; select set_config('request.jwt.claims', '{claims}', true) \\g /dev/null\nset local role authenticated;\n"
        rows: list[dict[str, Any]] = json.loads(
            self._project.database.execute(f"{as_user} select coalesce(json_agg(r), '[]') from ({query}) as r; commit;")
        )
        return rows

    def upload(self, name: str, content: bytes, content_type: str) -> str:
        """Stores a file in the user's library and returns its path."""
        key = f"{self.id}/{name}"
        self._project.library.objects[key] = StoredObject(content, content_type, {})
        self._project.database.execute(f"insert into storage.objects (bucket_id, name) values ('user-library', '{key}')")
        return f"user-library/{key}"


class SupabaseProject(LoopbackServer):
    """The project's gateway. Use it as a context manager.

    Args:
        database: Its migrated database.

    Attributes:
        runpod_api_url: RunPod's API for the functions, to be set before they start.
        workspace: The objects of workspace-temp.
        library: The objects of user-library.
        accounts: Ids of users by the address with which they sign in. Any password is right.
        callbacks: The status of the answer to each callback, in order.
        on_callback: Called before a callback is forwarded; a status that it returns is the answer instead.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(_Handler)
        self.database = database
        self.workspace = FakeStorage(SERVICE_KEY)
        self.library = FakeStorage(SERVICE_KEY, bucket="user-library")
        self.accounts: dict[str, str] = {}
        self.callbacks: list[int] = []
        self.on_callback: Callable[[], int | None] = lambda: None
        self.functions_url = ""
        self.runpod_api_url = ""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        super().__enter__()
        self._stack.enter_context(self.workspace)
        self._stack.enter_context(self.library)
        self._start_functions()
        return self

    def __exit__(self, *error: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._stack.close()
        super().__exit__(*error)

    def _start_functions(self) -> None:
        permissions = ("--no-check", "--allow-env", "--allow-read", "--allow-sys", "--allow-net=127.0.0.1")
        command = [executable("hosted"), "run", *CONFIG, *permissions, "tests/doubles/serve.ts"]
        environment = deno_environment(
            SUPABASE_URL=self.url, SUPABASE_DB_URL=self.database.url, JOB_CALLBACK_SECRET=CALLBACK_SECRET,
            SUPABASE_SECRET_KEYS=json.dumps({"default": SERVICE_KEY}), SUPABASE_PUBLISHABLE_KEYS=json.dumps({"default": PUBLISHABLE_KEY}),
            RUNPOD_API_URL=self.runpod_api_url, RUNPOD_API_KEY=RUNPOD_KEY,
            RUNPOD_SDXL_ENDPOINT="sdxl", RUNPOD_WAN_ENDPOINT="wan", RUNPOD_CHAT_ENDPOINT="chat",
        )  # fmt: skip
        self._process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self._process.stdout is not None
        self.functions_url = self._process.stdout.readline().strip()
        assert self.functions_url, "the functions did not start"

    def worker_environment(self, models: Path) -> dict[str, str]:
        """Returns the environment that connects a worker to this project."""
        return {
            "SUPABASE_URL": self.url,
            "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY,
            "JOB_CALLBACK_SECRET": CALLBACK_SECRET,
            "JOB_CALLBACK_URL": f"{self.url}/functions/v1/job-callback",
            "CALLBACK_ALLOWED_HOSTS": "127.0.0.1",
            "STORE_CALLBACK": "true",
            "CALLBACK_PROCESSING": "true",
            "MODELS_DIR": str(models),
            "DEVICE": "cpu",
            "PROGRESS_INTERVAL": "0.5",
        }

    def new_user(self) -> User:
        """Signs a user up."""
        user_id = str(uuid.uuid4())
        self.database.execute(f"insert into auth.users (id) values ('{user_id}')")
        return User(self, user_id)

    def as_schedule(self, function: str) -> dict[str, Any]:
        """Calls a function as the database's schedule does."""
        answer = httpx.post(f"{self.url}/functions/v1/{function}", json={}, headers={"apikey": SERVICE_KEY}, timeout=60)
        assert answer.status_code == 200, answer.text
        described: dict[str, Any] = answer.json()
        return described

    def wait_until(self, condition: str, seconds: float = 300.0) -> None:
        """Waits until a SQL condition is true."""
        deadline = time.monotonic() + seconds
        while self.database.execute(f"select {condition}") != "t":
            assert time.monotonic() < deadline, f"{condition} did not become true: {self.database.rows(_JOBS)}"
            time.sleep(0.1)


class _Handler(RequestHandler[SupabaseProject]):
    def do_GET(self) -> None:
        self._route()

    do_POST = do_PUT = do_DELETE = do_GET

    def _route(self) -> None:
        path, body = urlsplit(self.path).path, self.body()
        if path == "/auth/v1/user":
            self._user()
        elif path == "/auth/v1/token":
            self._sign_in(json.loads(body))
        elif path == "/functions/v1/job-callback":
            self._callback(body)
        elif path.startswith("/functions/v1/"):
            self._forward(self.service.functions_url, body)
        elif path == "/storage/v1/object/copy":
            self._copy(json.loads(body))
        elif path.startswith("/storage/v1/object/sign/") and self.command == "GET":
            bucket, _, name = unquote(path.removeprefix("/storage/v1/object/sign/")).partition("/")
            stored = (self.service.library if bucket == "user-library" else self.service.workspace).objects[name]
            self.respond(200, stored.content, stored.content_type)
        elif path.startswith("/storage/v1/object/sign/"):
            self._sign(path.rpartition("/")[2], json.loads(body))
        else:
            storage = self.service.library if "/user-library" in path else self.service.workspace
            self._forward(storage.url, body)

    def _callback(self, body: bytes) -> None:
        status = self.service.on_callback()
        if status is not None:
            self.service.callbacks.append(status)
            self.respond_json(status, {})
        else:
            self.service.callbacks.append(self._forward(self.service.functions_url, body))

    def _user(self) -> None:
        message, _, signature = self.headers.get("authorization", "").removeprefix("Bearer ").rpartition(".")
        valid = hmac.compare_digest(_base64url(hmac.digest(_JWT_SECRET, message.encode(), hashlib.sha256)).decode(), signature)
        subject = json.loads(base64.urlsafe_b64decode(message.rpartition(".")[2] + "=="))["sub"] if valid else None
        self.respond_json(200 if valid else 403, {"id": subject} if valid else {"error_code": "bad_jwt"})

    def _sign_in(self, body: Mapping[str, Any]) -> None:
        user_id = self.service.accounts[body["email"]]
        session = {"access_token": token(user_id), "token_type": "bearer", "expires_in": 3600, "refresh_token": "none"}
        self.respond_json(200, session | {"user": {"id": user_id, "aud": "authenticated", "role": "authenticated"}})

    def _forward(self, base: str, body: bytes) -> int:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_FORWARDED}
        if self.headers.get("authorization") == f"Bearer {SERVICE_KEY}" and self.headers.get("apikey") == SERVICE_KEY:
            # A gateway accepts a secret key as a bearer if `apikey` is the same.
            headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=60)
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        self.respond(answer.status, content, answer.headers.get("Content-Type", "application/json"))
        return answer.status

    def _sign(self, bucket: str, body: Mapping[str, Any]) -> None:
        objects = (self.service.library if bucket == "user-library" else self.service.workspace).objects
        signed: list[dict[str, Any]] = [
            {"path": name, "error": None, "signedURL": f"/object/sign/{bucket}/{name}?token=t"}
            if name in objects
            else {"path": name, "error": "not found", "signedURL": None}
            for name in body["paths"]
        ]
        self.respond_json(200, signed)

    def _copy(self, body: Mapping[str, Any]) -> None:
        self.service.library.objects[body["destinationKey"]] = self.service.workspace.objects[body["sourceKey"]]
        self.respond_json(200, {"Key": body["destinationKey"]})
