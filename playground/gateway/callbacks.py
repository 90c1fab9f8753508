"""The receiver of the workers' callbacks: keeps the last ones, with the verdict on their signatures."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from playground.callback_receiver import verification_error

PATH = "/callbacks"
_KEPT = 500
_SIGNATURE_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature", "x-callback-signature", "content-type")


@dataclass(frozen=True, slots=True)
class Callback:
    """A callback as it arrived.

    Attributes:
        received_at: ISO 8601, UTC.
        headers: Those that belong to the signatures, by lower-case name.
        body: The exact text that was signed.
        problem: Why its signatures do not hold; None if they do.
    """

    received_at: str
    headers: dict[str, str]
    body: str
    problem: str | None


class CallbackLog:
    """The last callbacks, the newest first."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._callbacks: deque[Callback] = deque(maxlen=_KEPT)

    def receive(self, headers: dict[str, str], body: bytes) -> None:
        """Verifies and keeps a callback."""
        signed = {name: headers[name] for name in _SIGNATURE_HEADERS if name in headers}
        callback = Callback(
            datetime.now(UTC).isoformat(timespec="milliseconds"),
            signed,
            body.decode(errors="replace"),
            verification_error(headers, body, self._secret),
        )
        self._callbacks.appendleft(callback)

    def of_job(self, job_id: str) -> list[dict[str, Any]]:
        """Returns the callbacks that contain this job id."""
        return [asdict(callback) for callback in self._callbacks if f'"job_id":"{job_id}"' in callback.body]


async def receive(request: Request) -> Response:
    """Receives a callback of a worker."""
    request.app.state.received.receive(dict(request.headers), await request.body())
    return JSONResponse({"received": True})


async def of_job(request: Request) -> Response:
    """Returns the callbacks of a job."""
    return JSONResponse(request.app.state.received.of_job(request.path_params["job_id"]))


ROUTES = [Route(PATH, receive, methods=["POST"]), Route(f"{PATH}/{{job_id:path}}", of_job, methods=["GET"])]
