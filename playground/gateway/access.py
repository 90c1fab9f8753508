"""Who may call the gateway: browsers only from its own page, workers with their key, and callers with a key if one is set."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from playground.gateway.worker_api import PREFIX

_PROTECTED = ("/v2/", "/callbacks", "/assets/")


class AccessControl:
    """ASGI middleware that refuses requests without the required key, and those that another website makes a browser send.

    Args:
        app: The application.
        key: What callers send as `Authorization: Bearer KEY`, or as the bare key. None accepts every caller.
        worker_key: What workers send.
        hosts: The names in the `Host` header under which the gateway may be called; empty for any. The check defends against DNS
            rebinding, where a website's name resolves to this machine.
    """

    def __init__(self, app: ASGIApp, *, key: str | None, worker_key: str, hosts: Collection[str]) -> None:
        self._app, self._key, self._worker_key, self._hosts = app, key, worker_key, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] == "http" and (refusal := self._refusal(scope["path"], Headers(scope=scope))) is not None:
            status, message = refusal
            await JSONResponse({"error": message}, status)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self._hosts and _name(host) not in self._hosts:
            return 421, "this server is called by another name"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "requests of other websites are refused"
        expected = self._worker_key if path.startswith(PREFIX) else self._key if path.startswith(_PROTECTED) else None
        if expected is not None and not _has_key(headers, expected):
            return 401, "the API key is missing or wrong"
        return None


def _name(host: str) -> str:
    return urlsplit(f"//{host}").hostname or ""


def _has_key(headers: Headers, key: str) -> bool:
    sent = headers.get("authorization", "").removeprefix("Bearer ")
    return secrets.compare_digest(sent.encode(), key.encode())
