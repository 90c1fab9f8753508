"""A fake Hugging Face Hub on loopback: file listings with hashes, redirects to an LFS host, range requests, and injected faults."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from playground.loopback import LoopbackServer, RequestHandler

_CHUNK = 1 << 16


@dataclass(frozen=True)
class HubRequest:
    """A recorded request."""

    path: str
    range: str | None
    authorization: str | None


class FakeHub(LoopbackServer):
    """Publishes one repository at one commit, and others with `publish`.

    Args:
        files: Path to content.
        repo: `owner/name`.
        revision: The commit.

    Attributes:
        gate: Delays each response of the LFS host until as many have been requested as it has parties.
        lfs_threshold: Files of at least this many bytes are LFS files: with a SHA-256, on a separate host.
        truncations: Path to the numbers of bytes after which the next responses are cut off.
        corrupt: Path to the number of next responses whose first byte is flipped.
        claimed_sizes: Path to a wrong size in the listing.
        error_statuses: Path to the HTTP status of every response.
        ignores_ranges: Whether range requests get the complete file.
        bytes_per_second: The bandwidth of each response; None for unlimited.
    """

    def __init__(self, files: Mapping[str, bytes], repo: str, revision: str) -> None:
        super().__init__(_Handler)
        self.files = dict(files)
        self.repo, self.revision = repo, revision
        self.lfs_threshold = 100_000
        self.truncations: dict[str, list[int]] = {}
        self.corrupt: dict[str, int] = {}
        self.claimed_sizes: dict[str, int] = {}
        self.error_statuses: dict[str, int] = {}
        self.ignores_ranges = False
        self.gate: threading.Barrier | None = None
        self.bytes_per_second: float | None = None
        self.requests: list[HubRequest] = []
        self._others: dict[str, tuple[str, dict[str, bytes]]] = {}
        # A separate port is a separate origin, to which HTTP clients do not forward the token.
        self._lfs_host = _LfsHost(self)

    def __enter__(self) -> Self:
        self._lfs_host.__enter__()
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._lfs_host.__exit__()

    def publish(self, repo: str, revision: str, files: Mapping[str, bytes]) -> None:
        """Publishes another repository, whose latest commit is `revision`."""
        self._others[repo] = (revision, dict(files))

    @property
    def requested_paths(self) -> list[str]:
        """The paths of all requests."""
        return [request.path for request in self.requests]

    @property
    def downloads(self) -> list[HubRequest]:
        """The requests for LFS files."""
        return [request for request in self.requests if request.path.startswith("/large/")]

    def listing(self, files: Mapping[str, bytes]) -> list[dict[str, Any]]:
        """Returns the file listing of the hub's API."""
        return [self._entry(path, content) for path, content in files.items()]

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": path, "size": self.claimed_sizes.get(path, len(content)), "oid": blob}
        if len(content) >= self.lfs_threshold:
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": entry["size"], "pointerSize": 134}
        return entry

    def respond(self, request: RequestHandler[Any]) -> None:
        """Responds to a GET request."""
        path = request.path.partition("?")[0]
        self.requests.append(HubRequest(path, request.headers.get("Range"), request.headers.get("Authorization")))
        for repo, (revision, files) in {self.repo: (self.revision, self.files), **self._others}.items():
            if path == f"/api/models/{repo}":
                return _send_json(request, {"id": repo, "sha": revision, "siblings": []})
            if path == f"/api/models/{repo}/tree/{revision}":
                return _send_json(request, self.listing(files))
            for prefix in (f"/{repo}/resolve/{revision}/", f"/large/{repo}/"):
                if path.startswith(prefix):
                    return self._respond_with_file(request, repo, path.removeprefix(prefix), files)
        return _send(request, 404, b"", {})

    def _respond_with_file(self, request: RequestHandler[Any], repo: str, name: str, files: Mapping[str, bytes]) -> None:
        if name not in files or name in self.error_statuses:
            _send(request, self.error_statuses.get(name, 404), b"", {})
        elif "/resolve/" in request.path and "lfs" in (entry := self._entry(name, files[name])):
            host = f"{self._lfs_host.url}/large/{repo}/{name}?signature=canary-signature"
            _send(request, 302, b"", {"Location": host, "X-Linked-Etag": f'"{entry["lfs"]["oid"]}"', "X-Linked-Size": str(entry["size"])})
        else:
            if self.gate is not None and request.path.startswith("/large/"):
                self.gate.wait(timeout=60)
            self._send_file(request, name, files[name])

    def _send_file(self, request: RequestHandler[Any], name: str, content: bytes) -> None:
        if self.corrupt.get(name, 0) > 0:
            self.corrupt[name] -= 1
            content = bytes([content[0] ^ 1]) + content[1:]
        part = None if self.ignores_ranges else re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or "")
        first, last = (int(part[1]), int(part[2] or len(content) - 1)) if part else (0, len(content) - 1)
        body = content[first : last + 1]
        cut = self.truncations[name].pop(0) if self.truncations.get(name) else None
        headers = {"Content-Range": f"bytes {first}-{last}/{len(content)}"} if part else {}
        _send(request, 206 if part else 200, body, headers, cut=cut, speed=self.bytes_per_second)


class _LfsHost(LoopbackServer):
    def __init__(self, hub: FakeHub) -> None:
        super().__init__(_LfsHandler)
        self.hub = hub


class _Handler(RequestHandler[FakeHub]):
    def do_GET(self) -> None:
        self.service.respond(self)


class _LfsHandler(RequestHandler[_LfsHost]):
    def do_GET(self) -> None:
        self.service.hub.respond(self)


def _send_json(request: RequestHandler[Any], content: object) -> None:
    _send(request, 200, json.dumps(content).encode(), {"Content-Type": "application/json"})


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
        for start in range(0, len(body[:cut]), _CHUNK):
            request.wfile.write(body[start : min(start + _CHUNK, len(body[:cut]))])
            if speed:
                time.sleep(_CHUNK / speed)
    except (BrokenPipeError, ConnectionResetError):
        request.close_connection = True
    if cut is not None:
        request.close_connection = True
