"""The gateway as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from playground.gateway import callbacks, openai_api, page, public_api, worker_api
from playground.gateway.access import AccessControl
from playground.gateway.callbacks import CallbackLog
from playground.gateway.endpoint import Endpoint
from playground.gateway.jobs import Job
from playground.gateway.platform_webhook import call_webhook
from shared.contract.callback_hosts import LOOPBACK_HOSTS

_EXPIRY_INTERVAL = 1.0


def create_app(
    endpoints: Sequence[Endpoint], output: Path, *, worker_key: str, callback_secret: str, key: str | None = None, any_host: bool = False
) -> Starlette:
    """Returns the application.

    Args:
        endpoints: The endpoints, by whose names it is called.
        output: The folder in which workers store results; served below `/assets/`.
        worker_key: What workers authenticate themselves with.
        callback_secret: What workers sign callbacks with.
        key: What callers authenticate themselves with; None for no authentication.
        any_host: Accept requests under any host name, not only those of loopback.
    """
    output.mkdir(parents=True, exist_ok=True)
    hosts = () if any_host else LOOPBACK_HOSTS
    app = Starlette(
        routes=[
            *(*openai_api.ROUTES, *public_api.ROUTES, *worker_api.ROUTES, *callbacks.ROUTES, *page.ROUTES),
            Mount("/assets", StaticFiles(directory=output)),
        ],
        middleware=[Middleware(AccessControl, key=key, worker_key=worker_key, hosts=hosts)],
        exception_handlers={HTTPException: _error_response},
        lifespan=_lifespan,
    )
    app.state.endpoints = {endpoint.name: endpoint for endpoint in endpoints}
    app.state.received = CallbackLog(callback_secret)
    return app


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    """Calls webhooks and expires jobs while the application runs."""
    endpoints: list[Endpoint] = list(app.state.endpoints.values())
    webhooks: set[asyncio.Task[bool]] = set()
    for endpoint in endpoints:
        endpoint.on_end.append(partial(_start_webhook, webhooks))
    expiry = asyncio.create_task(_expire(endpoints))
    yield
    for task in (expiry, *webhooks):
        task.cancel()


def _start_webhook(tasks: set[asyncio.Task[bool]], job: Job) -> None:
    task = asyncio.create_task(call_webhook(job))
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def _expire(endpoints: Sequence[Endpoint]) -> None:
    while True:
        await asyncio.sleep(_EXPIRY_INTERVAL)
        for endpoint in endpoints:
            endpoint.expire()


async def _error_response(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)
