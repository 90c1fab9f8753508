"""The job API for workers: what RunPod's SDK calls from inside a worker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from playground.gateway import limits
from playground.gateway.endpoint import Endpoint
from playground.gateway.public_api import endpoint_of, read_json

PREFIX = "/worker"
_MAX_RESULT_BYTES = 64 * 2**20
_EMPTY = 204


def environment(url: str, endpoint: str, worker: str, key: str) -> dict[str, str]:
    """Returns the variables that make RunPod's SDK a worker of this gateway.

    Args:
        url: The gateway's address.
        endpoint: The endpoint's id.
        worker: The worker's id.
        key: The key that the gateway expects from workers.
    """
    # The SDK replaces `$ID`, and appends `&…`: each URL needs a query.
    api = f"{url}{PREFIX}/{endpoint}"
    return {
        "RUNPOD_POD_ID": worker,
        "RUNPOD_ENDPOINT_ID": endpoint,
        "RUNPOD_AI_API_KEY": key,
        "RUNPOD_WEBHOOK_GET_JOB": f"{api}/job-take/$ID?gpu=local",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{api}/job-done/$RUNPOD_POD_ID/$ID?gpu=local",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{api}/job-stream/$RUNPOD_POD_ID/$ID?gpu=local",
        "RUNPOD_WEBHOOK_PING": f"{api}/ping/$RUNPOD_POD_ID?gpu=local",
        "RUNPOD_PING_INTERVAL": "10000",
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        "RUNPOD_SKIP_GPU_CHECK": "true",
    }


async def take(request: Request) -> Response:
    """Hands out one job."""
    jobs = await _take(request, 1)
    return _jobs_response(jobs[0]) if jobs else Response(status_code=_EMPTY)


async def take_batch(request: Request) -> Response:
    """Hands out as many jobs as a worker has free slots."""
    jobs = await _take(request, max(1, int(request.query_params.get("batch_size", "1"))))
    return _jobs_response(jobs) if jobs else Response(status_code=_EMPTY)


def _jobs_response(content: object) -> Response:
    # Not a JSONResponse, which fails for an infinite number: it is for the worker to refuse a job.
    return Response(json.dumps(content), media_type="application/json")


async def _take(request: Request, count: int) -> list[dict[str, Any]]:
    endpoint, worker = _worker_of(request)
    await endpoint.wait(lambda: endpoint.queue, limits.TAKE_WAIT)
    # A worker that has ended meanwhile would lose the job.
    return [] if await request.is_disconnected() else endpoint.take(worker, count)


async def stops(request: Request) -> Response:
    """Tells a worker which jobs to stop."""
    endpoint, worker = _worker_of(request)
    await endpoint.wait(lambda: endpoint.has_stops(worker), limits.STOP_WAIT)
    ids = [] if await request.is_disconnected() else endpoint.take_stops(worker)
    return JSONResponse({"jobsToStop": ids}) if ids else Response(status_code=_EMPTY)


async def done(request: Request) -> Response:
    """Receives a result or a progress update: the SDK posts both here."""
    endpoint, worker = _worker_of(request)
    body = await read_json(request, _MAX_RESULT_BYTES)
    result: Mapping[str, Any] = body if isinstance(body, dict) else {"output": body}
    if result.get("status") == "IN_PROGRESS":
        endpoint.update(request.path_params["job"], worker, result.get("output"))
    else:
        endpoint.finish(request.path_params["job"], worker, result)
    return JSONResponse({})


async def stream(request: Request) -> Response:
    """Receives a piece of streamed output."""
    endpoint, worker = _worker_of(request)
    body = await read_json(request, _MAX_RESULT_BYTES)
    endpoint.add_chunk(request.path_params["job"], worker, body.get("output") if isinstance(body, dict) else body)
    return JSONResponse({})


async def ping(request: Request) -> Response:
    """Receives a sign of life."""
    _worker_of(request)
    return JSONResponse({"ok": True})


def _worker_of(request: Request) -> tuple[Endpoint, str]:
    endpoint, worker = endpoint_of(request), request.path_params["worker"]
    endpoint.worker_seen(worker)
    return endpoint, worker


ROUTES = [
    Route("/worker/{endpoint}/job-take/{worker}", take, methods=["GET"]),
    Route("/worker/{endpoint}/job-take-batch/{worker}", take_batch, methods=["GET"]),
    Route("/worker/{endpoint}/job-stop/{worker}", stops, methods=["GET"]),
    Route("/worker/{endpoint}/job-done/{worker}/{job}", done, methods=["POST"]),
    Route("/worker/{endpoint}/job-stream/{worker}/{job}", stream, methods=["POST"]),
    Route("/worker/{endpoint}/ping/{worker}", ping, methods=["GET"]),
]
