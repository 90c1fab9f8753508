"""A model hub on loopback: its listing with sizes and hashes, redirects to a host for large files, ranges, and faults on demand."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from playground.loopback import LoopbackServer, RequestHandler

_PIECE = 1 << 16


@dataclass(frozen=True)
class HubRequest:
    """One request."""

    path: str
    range: str | None
    authorization: str | None


class FakeHub(LoopbackServer):
    """Publishes one repository at one commit.

    Args:
        files: Path → bytes.
        repo: `owner/name`.
        revision: The commit.

    Attributes:
        large: From so many bytes on a file is kept as a large one: with a SHA-256, on another host.
        cuts: Path → after how many bytes each of the next answers breaks off.
        corrupt: Paths whose first byte is wrong in the next so many answers.
        claims: Path → the size that is said instead of the true one.
        refuses: Path → the status of every answer.
        ignores_ranges: Whether the host sends whole files to whoever asks for a part.
        bytes_per_second: How fast each answer comes; None: at once.
    """

    def __init__(self, files: Mapping[str, bytes], repo: str, revision: str) -> None:
        super().__init__(_Request)
        self.files = dict(files)
        self.repo, self.revision = repo, revision
        self.large = 100_000
        self.cuts: dict[str, list[int]] = {}
        self.corrupt: dict[str, int] = {}
        self.claims: dict[str, int] = {}
        self.refuses: dict[str, int] = {}
        self.ignores_ranges = False
        self.bytes_per_second: float | None = None
        self.requests: list[HubRequest] = []
        # The other host: a browser and every client count another port as another origin, and drop the token.
        self._host = _Host(self)

    def __enter__(self) -> Self:
        self._host.__enter__()
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._host.__exit__()

    @property
    def asked(self) -> list[str]:
        """The paths that were asked for."""
        return [request.path for request in self.requests]

    @property
    def downloads(self) -> list[HubRequest]:
        """The requests that were answered with bytes of large files."""
        return [request for request in self.requests if request.path.startswith("/large/")]

    def listing(self) -> list[dict[str, Any]]:
        """What the hub says about the files."""
        return [self._entry(path, content) for path, content in self.files.items()]

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": path, "size": self.claims.get(path, len(content)), "oid": blob}
        if len(content) >= self.large:
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": entry["size"], "pointerSize": 134}
        return entry

    def respond(self, request: RequestHandler[Any]) -> None:
        """Answers one GET."""
        path = request.path.partition("?")[0]
        self.requests.append(HubRequest(path, request.headers.get("Range"), request.headers.get("Authorization")))
        name = path.partition(f"/{self.repo}/resolve/{self.revision}/")[2] or path.partition("/large/")[2]
        if path == f"/api/models/{self.repo}/tree/{self.revision}":
            _send(request, 200, json.dumps(self.listing()).encode(), {"Content-Type": "application/json"})
        elif name not in self.files or name in self.refuses:
            _send(request, self.refuses.get(name, 404), b"", {})
        elif "/resolve/" in path and "lfs" in (entry := self._entry(name, self.files[name])):
            host = f"{self._host.url}/large/{name}?signature=canary-signature"
            _send(request, 302, b"", {"Location": host, "X-Linked-Etag": f'"{entry["lfs"]["oid"]}"', "X-Linked-Size": str(entry["size"])})
        else:
            self._send_file(request, name)

    def _send_file(self, request: RequestHandler[Any], name: str) -> None:
        content = self.files[name]
        if self.corrupt.get(name, 0) > 0:
            self.corrupt[name] -= 1
            content = bytes([content[0] ^ 1]) + content[1:]
        part = None if self.ignores_ranges else re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or "")
        first, last = (int(part[1]), int(part[2] or len(content) - 1)) if part else (0, len(content) - 1)
        body = content[first : last + 1]
        cut = self.cuts[name].pop(0) if self.cuts.get(name) else None
        more = {"Content-Range": f"bytes {first}-{last}/{len(content)}"} if part else {}
        _send(request, 206 if part else 200, body, more, cut=cut, speed=self.bytes_per_second)


class _Host(LoopbackServer):
    def __init__(self, hub: FakeHub) -> None:
        super().__init__(_RequestForLarge)
        self.hub = hub


class _Request(RequestHandler[FakeHub]):
    def do_GET(self) -> None:
        self.service.respond(self)


class _RequestForLarge(RequestHandler[_Host]):
    def do_GET(self) -> None:
        self.service.hub.respond(self)


def _send(
    request: RequestHandler[Any],
    status: int,
    body: bytes,
    headers: Mapping[str, str],
    *,
    cut: int | None = None,
    speed: float | None = None,
) -> None:
    request.send_head(status, {**headers, "Content-Length": str(len(body))})
    try:
        for start in range(0, len(body[:cut]), _PIECE):
            request.wfile.write(body[start : min(start + _PIECE, len(body[:cut]))])
            if speed:
                time.sleep(_PIECE / speed)
    except (BrokenPipeError, ConnectionResetError):
        request.close_connection = True
    if cut is not None:
        request.close_connection = True
