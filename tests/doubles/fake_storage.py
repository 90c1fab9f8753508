"""A fake of the part of Supabase Storage that a worker uses, on loopback, with its quirks and with injected faults.

Its quirks: an error's real status is in the body of a response with status 400; 409 and 415 are sent before the request body was read,
on a persistent connection that never responds again.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from typing import Any
from urllib.parse import unquote, urlsplit

from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

from playground.loopback import LoopbackServer, RequestHandler

Fault = Callable[["Handler"], None]
Behaviour = Callable[[Any], None]
"""Behavior of a path, from `tests.doubles.image_server`."""


@dataclass(frozen=True)
class StoredObject:
    """A stored object."""

    content: bytes
    content_type: str
    metadata: dict[str, Any]
    cache_control: str = ""
    updated_at: float = field(default_factory=time.time)


def responds(http: int, body: bytes, content_type: str = "application/json") -> Fault:
    """Sends this response and stores nothing."""

    def behave(handler: Handler) -> None:
        handler.read_body()
        handler.respond(http, body, content_type)

    return behave


def fails_with(status: int) -> Fault:
    """Sends an error as the service does: 400, with the real status in the body."""
    return responds(400, json.dumps({"statusCode": str(status), "error": "Error", "message": "temporarily unavailable"}).encode())


def stores(handler: Handler) -> None:
    """Stores the object and responds correctly."""
    handler.store()
    handler.respond(200, b'{"Key": "a-key", "Id": "an-id"}')


def drops_the_response(handler: Handler) -> None:
    """Stores the object, then resets the connection."""
    handler.store()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def truncates_the_response(handler: Handler) -> None:
    """Stores the object, then sends a truncated response."""
    handler.store()
    handler.send_response(200)
    handler.send_header("Content-Length", "500")
    handler.end_headers()
    handler.wfile.write(b'{"Key": ')
    handler.close_connection = True


def hangs(handler: Handler) -> None:
    """Reads the request and never responds."""
    handler.read_body()
    handler.service.closing.wait()


class FakeStorage(LoopbackServer):
    """Serves one bucket inside a `with` block.

    Args:
        key: The service key.
        bucket: The bucket's name.
        size_limit: The maximum size of an object in bytes.
        mime_types: The allowed media types; None allows all.

    Attributes:
        objects: The stored objects by key.
        requests: Method and path of each request, in order.
        connections: The number of accepted connections.
        outage: A fault that applies to every request while it is set.
    """

    def __init__(
        self, key: str, *, bucket: str = "workspace-temp", size_limit: int | None = None, mime_types: list[str] | None = None
    ) -> None:
        super().__init__(Handler)
        self.key = key
        self.bucket = bucket
        self.size_limit = size_limit
        self.mime_types = mime_types
        self.objects: dict[str, StoredObject] = {}
        self.requests: list[tuple[str, str]] = []
        self.connections = 0
        self.outage: Fault | None = None
        self._faults: deque[Fault] = deque()
        self._paths: dict[str, deque[Behaviour]] = {}

    def on_connection(self) -> None:
        self.connections += 1

    def fail(self, *faults: Fault) -> None:
        """Injects these faults into the next requests, one each."""
        self._faults.extend(faults)

    def serve(self, path: str, *behaviours: Behaviour) -> str:
        """Configures a path like `ImageServer.serve`, in addition to the stored objects. Returns the URL."""
        self._paths[path] = deque(behaviours)
        return self.url + path

    def next_behaviour(self, path: str) -> Behaviour | None:
        """Returns the next behavior of a path that was configured with `serve`."""
        behaviours = self._paths.get(path.partition("?")[0])
        return None if behaviours is None else behaviours.popleft() if len(behaviours) > 1 else behaviours[0]

    def recover(self) -> None:
        """Removes all faults."""
        self.outage = None
        self._faults.clear()

    def next_fault(self) -> Fault | None:
        """Returns the fault for the next request."""
        return self.outage or (self._faults.popleft() if self._faults else None)


class Handler(RequestHandler[FakeStorage]):
    """Handles one connection."""

    def do_GET(self) -> None:
        self._serve(self.look_up)

    def do_POST(self) -> None:
        self._serve(self._upload)

    def do_DELETE(self) -> None:
        self._serve(self._remove)

    def do_PUT(self) -> None:
        self._serve(self._upload)

    def _serve(self, handle: Callable[[], None]) -> None:
        storage = self.service
        storage.requests.append((self.command, self.path))
        self._body: bytes | None = None
        if (behave := storage.next_behaviour(self.path)) is not None:
            self.close_connection = True
            behave(self)
            return
        fault = storage.next_fault()
        if fault is not None:
            fault(self)
        elif not self._is_authorized():
            self.read_body()
            self.refuse(403, "Unauthorized", "signature verification failed")
        else:
            handle()

    def _is_authorized(self) -> bool:
        """A secret key is refused as a bearer, as by gateways that verify JWTs; a legacy key is required as one."""
        key = self.service.key
        bearer = None if key.startswith("sb_secret_") else f"Bearer {key}"
        return self.headers.get("apikey") == key and self.headers.get("authorization") == bearer

    def look_up(self) -> None:
        """Sends the bucket's description or an object."""
        storage, (kind, rest) = self.service, self._parts()
        bucket, _, key = rest.partition("/")
        if bucket != storage.bucket:
            self.refuse(404, "Bucket not found", "Bucket not found")
        elif kind == "bucket":
            self._describe_bucket()
        elif key in storage.objects and self._wants_info():
            stored = storage.objects[key]
            described = {
                "id": "an-id",
                "size": len(stored.content),
                "metadata": stored.metadata,
                "last_modified": _timestamp(stored.updated_at),
            }
            self.respond(200, json.dumps(described).encode())
        elif key in storage.objects:
            self.respond(200, storage.objects[key].content, storage.objects[key].content_type)
        else:
            self.refuse(404, "not_found", "Object not found")

    def _describe_bucket(self) -> None:
        storage = self.service
        moment = "2026-01-01T00:00:00.000Z"
        described = {"id": storage.bucket, "name": storage.bucket, "owner": "", "public": False, "created_at": moment, "updated_at": moment}
        limits = {"file_size_limit": storage.size_limit, "allowed_mime_types": storage.mime_types}
        self.respond(200, json.dumps(described | limits).encode())

    def _parts(self) -> tuple[str, str]:
        """Returns `bucket` and its name, or `object` and bucket/key, with or without `authenticated` in the path."""
        path = unquote(urlsplit(self.path).path).removeprefix("/storage/v1/")
        path = path.replace("object/authenticated/", "object/", 1).replace("object/info/", "object/", 1)
        kind, _, rest = path.partition("/")
        return kind, rest

    def _list(self, bucket: str) -> None:
        folder = json.loads(self.read_body())["prefix"] + "/"
        found = [(key.removeprefix(folder), stored) for key, stored in self.service.objects.items() if key.startswith(folder)]
        entries = [{"name": name, "id": "an-id", "updated_at": _timestamp(stored.updated_at), "metadata": {}} for name, stored in found]
        self.respond(200, json.dumps(entries if bucket == self.service.bucket else []).encode())

    def _remove(self) -> None:
        for key in json.loads(self.read_body())["prefixes"]:
            self.service.objects.pop(key, None)
        self.respond(200, b"[]")

    def _wants_info(self) -> bool:
        return self.path.startswith("/storage/v1/object/info/")

    def _upload(self) -> None:
        storage = self.service
        bucket, _, key = self._parts()[1].partition("/")
        if bucket == "list":
            self._list(key)
            return
        if bucket != storage.bucket:
            self.read_body()
            self.refuse(404, "Bucket not found", "Bucket not found")
        elif self.command == "POST" and key in storage.objects and self.headers.get("x-upsert") != "true":
            self._refuse_early(409, "Duplicate", "The resource already exists")
        elif storage.mime_types is not None and self._form()[1] not in storage.mime_types:
            self._refuse_early(415, "invalid_mime_type", "mime type is not supported")
        elif storage.size_limit is not None and len(self._form()[0]) > storage.size_limit:
            self.refuse(413, "Payload too large", "The object exceeded the maximum allowed size")
        else:
            self.store()
            self.respond(200, json.dumps({"Key": f"{bucket}/{key}", "Id": "an-id"}).encode())

    def store(self) -> None:
        """Stores the uploaded object."""
        self.service.objects[self._parts()[1].partition("/")[2]] = StoredObject(*self._form())

    def _form(self) -> tuple[bytes, str, dict[str, Any], str]:
        mimetype, options = parse_options_header(self.headers["content-type"])
        _, form, files = FormDataParser().parse(BytesIO(self.read_body()), mimetype, None, options)
        file = files["file"]
        file.stream.seek(0)
        return file.stream.read(), file.mimetype, json.loads(form.get("metadata", "{}")), form.get("cacheControl", "")

    def read_body(self) -> bytes:
        """Returns the request body, reading it once."""
        if self._body is None:
            self._body = self.body()
        return self._body

    def refuse(self, status: int, error: str, message: str) -> None:
        """Sends an error with its real status in the body."""
        self.respond(400, json.dumps({"statusCode": str(status), "error": error, "message": message}).encode())

    def _refuse_early(self, status: int, error: str, message: str) -> None:
        self.refuse(status, error, message)
        self.service.closing.wait()


def _timestamp(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
