"""The public API of an endpoint: run, runsync, status, stream, cancel, retry, purge-queue and health.

All responses of existing jobs have status 200: RunPod's JavaScript client returns no body for another success status.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from playground.gateway import limits
from playground.gateway.endpoint import Endpoint, JobNotFound
from playground.gateway.jobs import Job, Status

Endpoints = dict[str, Endpoint]

# In milliseconds: least and most, of RunPod's documentation.
_POLICY = {"executionTimeout": (5_000, 604_800_000), "ttl": (10_000, 604_800_000)}
_WAIT = (1_000, 300_000)


def endpoint_of(request: Request) -> Endpoint:
    """Returns the endpoint that a request's path names.

    Raises:
        HTTPException: With status 404, if there is none.
    """
    endpoints: Endpoints = request.app.state.endpoints
    try:
        return endpoints[request.path_params["endpoint"]]
    except KeyError:
        raise HTTPException(404, "endpoint not found") from None


async def run(request: Request) -> Response:
    """Queues a job."""
    job = endpoint_of(request).submit(await _job_body(request, limits.MAX_RUN_BYTES))
    return JSONResponse({"id": job.id, "status": job.status})


async def runsync(request: Request) -> Response:
    """Queues a job and waits for its end."""
    endpoint, wait = endpoint_of(request), _wait_seconds(request)
    job = endpoint.submit(await _job_body(request, limits.MAX_RUNSYNC_BYTES), sync=True)
    await endpoint.wait(lambda: job.status.final, wait)
    return JSONResponse(job.describe())


async def status(request: Request, endpoint: Endpoint, job: Job) -> Response:
    """Returns the status object of a job."""
    return JSONResponse(job.describe())


async def status_sync(request: Request, endpoint: Endpoint, job: Job) -> Response:
    """Waits for the end of a job, then returns its status object. RunPod's JavaScript client polls it after `/runsync`."""
    await endpoint.wait(lambda: job.status.final, _wait_seconds(request))
    return JSONResponse(job.describe())


async def stream(request: Request, endpoint: Endpoint, job: Job) -> Response:
    """Returns the output that was streamed since the last call. Waits for some, because clients poll without a pause."""
    await endpoint.wait(lambda: job.status.final or len(job.chunks) > job.streamed, limits.STREAM_WAIT)
    return JSONResponse({"status": job.status, "stream": job.next_chunks()})


async def cancel(request: Request, endpoint: Endpoint, job: Job) -> Response:
    """Cancels a job that has not ended."""
    endpoint.cancel(job)
    return JSONResponse({"id": job.id, "status": job.status})


async def retry(request: Request, endpoint: Endpoint, job: Job) -> Response:
    """Queues a job that has failed or timed out again."""
    if not endpoint.retry(job):
        raise HTTPException(400, f"only jobs that are {Status.FAILED} or {Status.TIMED_OUT} can be retried; this one is {job.status}")
    return JSONResponse({"id": job.id, "status": job.status})


async def purge_queue(request: Request) -> Response:
    """Cancels all jobs that wait."""
    return JSONResponse({"removed": endpoint_of(request).purge(), "status": "completed"})


async def health(request: Request) -> Response:
    """Returns the number of jobs and workers in each state."""
    return JSONResponse(endpoint_of(request).health())


def _of_job(respond: Callable[[Request, Endpoint, Job], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def route(request: Request) -> Response:
        endpoint = endpoint_of(request)
        try:
            job = endpoint.job(request.path_params["job"])
        except JobNotFound:
            raise HTTPException(404, "job not found") from None
        return await respond(request, endpoint, job)

    return route


async def read_json(request: Request, limit: int) -> Any:
    """Reads a JSON body of at most `limit` bytes.

    Raises:
        HTTPException: It is larger (status 413), or it is not JSON (400).
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise HTTPException(413, f"the request body may have at most {limit:,} bytes")
    try:
        return json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the request body is not JSON") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


async def _job_body(request: Request, limit: int) -> dict[str, Any]:
    body = await read_json(request, limit)
    if not isinstance(body, dict) or "input" not in body:
        raise HTTPException(400, "the request body must be a JSON object with `input`")
    policy = body.get("policy") or {}
    if not isinstance(policy, dict):
        raise HTTPException(400, "`policy` must be an object")
    for name, (least, most) in _POLICY.items():
        value = policy.get(name)
        if value is not None and not (isinstance(value, int) and least <= value <= most):
            raise HTTPException(400, f"`policy.{name}` must be {least} to {most} (milliseconds)")
    return body


def _wait_seconds(request: Request) -> float:
    text = request.query_params.get("wait", str(round(limits.RUNSYNC_WAIT * 1000)))
    least, most = _WAIT
    if not text.isdecimal() or not least <= int(text) <= most:
        raise HTTPException(400, f"`wait` must be {least} to {most} (milliseconds)")
    return int(text) / 1000


ROUTES = [
    Route("/v2/{endpoint}/run", run, methods=["POST"]),
    Route("/v2/{endpoint}/runsync", runsync, methods=["POST"]),
    Route("/v2/{endpoint}/status/{job}", _of_job(status), methods=["GET", "POST"]),
    Route("/v2/{endpoint}/status-sync/{job}", _of_job(status_sync), methods=["GET", "POST"]),
    Route("/v2/{endpoint}/stream/{job}", _of_job(stream), methods=["GET", "POST"]),
    Route("/v2/{endpoint}/cancel/{job}", _of_job(cancel), methods=["POST"]),
    Route("/v2/{endpoint}/retry/{job}", _of_job(retry), methods=["POST"]),
    Route("/v2/{endpoint}/purge-queue", purge_queue, methods=["POST"]),
    Route("/v2/{endpoint}/health", health, methods=["GET"]),
]
