"""Supabase Storage on loopback, as far as the worker speaks to it, with its habits and with faults on demand.

Its habits: the real status of an error stands in the body of an answer that is 400; 409 and 415 come before the body was read, on a
connection that is kept and then never answers again.
"""

from __future__ import annotations

import json
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from urllib.parse import unquote, urlsplit

from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

from playground.loopback import LoopbackServer, RequestHandler

Fault = Callable[["Handler"], None]
Behaviour = Callable[[Any], None]
"""Of a path: those of `tests.doubles.image_server`."""


@dataclass(frozen=True)
class StoredObject:
    """What is stored under a key."""

    content: bytes
    content_type: str
    metadata: dict[str, Any]


def responds(http: int, body: bytes, content_type: str = "application/json") -> Fault:
    """Answers so, and stores nothing."""

    def behave(handler: Handler) -> None:
        handler.read_body()
        handler.respond(http, body, content_type)

    return behave


def fails_with(status: int) -> Fault:
    """Answers with an error as the service does: 400, with the real status in the body."""
    return responds(400, json.dumps({"statusCode": str(status), "error": "Error", "message": "at the moment not"}).encode())


def stores(handler: Handler) -> None:
    """Stores, as it should."""
    handler.store()
    handler.respond(200, b'{"Key": "a-key", "Id": "an-id"}')


def drops_the_response(handler: Handler) -> None:
    """Stores, then breaks the connection."""
    handler.store()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def truncates_the_response(handler: Handler) -> None:
    """Stores, then sends half an answer."""
    handler.store()
    handler.send_response(200)
    handler.send_header("Content-Length", "500")
    handler.end_headers()
    handler.wfile.write(b'{"Key": ')
    handler.close_connection = True


def hangs(handler: Handler) -> None:
    """Reads the request and never answers."""
    handler.read_body()
    handler.service.closing.wait()


class FakeStorage(LoopbackServer):
    """One bucket, served inside a `with` block.

    Args:
        key: The service key.
        bucket: Its name.
        size_limit: Bytes that an object may have.
        mime_types: The media types that are allowed; None allows all.

    Attributes:
        objects: What is stored, by key.
        requests: Method and path of each request, in order.
        connections: How many connections were made.
        outage: What every request meets, as long as it is set.
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
        """Serves the next requests by these, one each."""
        self._faults.extend(faults)

    def serve(self, path: str, *behaviours: Behaviour) -> str:
        """Serves a path as `ImageServer` does, beside what is stored. Returns its URL."""
        self._paths[path] = deque(behaviours)
        return self.url + path

    def next_behaviour(self, path: str) -> Behaviour | None:
        """How a path that was given to `serve` behaves now."""
        behaviours = self._paths.get(path.partition("?")[0])
        return None if behaviours is None else behaviours.popleft() if len(behaviours) > 1 else behaviours[0]

    def recover(self) -> None:
        """Serves every request as it should from now on."""
        self.outage = None
        self._faults.clear()

    def next_fault(self) -> Fault | None:
        """The fault that the next request meets."""
        return self.outage or (self._faults.popleft() if self._faults else None)


class Handler(RequestHandler[FakeStorage]):
    """One connection."""

    def do_GET(self) -> None:
        self._serve(self.look_up)

    def do_POST(self) -> None:
        self._serve(self._upload)

    def do_PUT(self) -> None:
        self._serve(self._upload)

    def _serve(self, usual: Callable[[], None]) -> None:
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
        elif self.headers.get("authorization") != f"Bearer {storage.key}" or self.headers.get("apikey") != storage.key:
            self.read_body()
            self.refuse(403, "Unauthorized", "signature verification failed")
        else:
            usual()

    def look_up(self) -> None:
        """Answers with the bucket, or an object."""
        storage, (kind, rest) = self.service, self._parts()
        bucket, _, key = rest.partition("/")
        if bucket != storage.bucket:
            self.refuse(404, "Bucket not found", "Bucket not found")
        elif kind == "bucket":
            self._describe_bucket()
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
        """`bucket`, name; or `object`, bucket and key, whether or not `authenticated` is said."""
        path = unquote(urlsplit(self.path).path).removeprefix("/storage/v1/").replace("object/authenticated/", "object/", 1)
        kind, _, rest = path.partition("/")
        return kind, rest

    def _upload(self) -> None:
        storage = self.service
        bucket, _, key = self._parts()[1].partition("/")
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
        """Stores what is uploaded."""
        content, content_type, metadata = self._form()
        self.service.objects[self._parts()[1].partition("/")[2]] = StoredObject(content, content_type, metadata)

    def _form(self) -> tuple[bytes, str, dict[str, Any]]:
        mimetype, options = parse_options_header(self.headers["content-type"])
        _, form, files = FormDataParser().parse(BytesIO(self.read_body()), mimetype, None, options)
        file = files["file"]
        file.stream.seek(0)
        return file.stream.read(), file.mimetype, json.loads(form.get("metadata", "{}"))

    def read_body(self) -> bytes:
        """The body, which is read once."""
        if self._body is None:
            self._body = self.body()
        return self._body

    def refuse(self, status: int, error: str, message: str) -> None:
        """Sends an error, with its real status in the body."""
        self.respond(400, json.dumps({"statusCode": str(status), "error": error, "message": message}).encode())

    def _refuse_early(self, status: int, error: str, message: str) -> None:
        self.refuse(status, error, message)
        self.service.closing.wait()
