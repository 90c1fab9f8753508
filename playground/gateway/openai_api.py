"""`/openai/v1/*`: each HTTP call becomes a job, and the job's output its response.

RunPod does not document how it answers for failed jobs. Here the worker's error, which is OpenAI's error as JSON, becomes the body, and its
type decides between status 400 and 500.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from playground.gateway import limits
from playground.gateway.endpoint import Endpoint
from playground.gateway.jobs import Job, Status
from playground.gateway.public_api import endpoint_of, read_json


async def call(request: Request) -> Response:
    """Runs the job of one call."""
    endpoint = endpoint_of(request)
    body = {} if request.method == "GET" else await read_json(request, limits.MAX_RUN_BYTES)
    job = endpoint.submit({"input": {"openai_route": f"/v1/{request.path_params['path']}", "openai_input": body}})
    if isinstance(body, dict) and body.get("stream") is True:
        await endpoint.wait(lambda: job.chunks or job.status.final, limits.EXECUTION_TIMEOUT)
        if job.chunks:
            return StreamingResponse(_events(endpoint, job), media_type="text/event-stream")
    else:
        await _wait_unless_disconnected(request, endpoint, job)
    return _response(job)


async def _wait_unless_disconnected(request: Request, endpoint: Endpoint, job: Job) -> None:
    while not job.status.final:
        await endpoint.wait(lambda: job.status.final, 1.0)
        if await request.is_disconnected():
            endpoint.cancel(job)


async def _events(endpoint: Endpoint, job: Job) -> AsyncIterator[str]:
    """Yields the streamed text as it arrives. A reader that hangs up cancels the job."""
    try:
        while True:
            for chunk in job.next_chunks():
                if isinstance(chunk["output"], str):
                    yield chunk["output"]
            if job.status.final:
                break
            await endpoint.wait(lambda: job.status.final or len(job.chunks) > job.streamed, limits.STREAM_WAIT)
        if job.error is not None:
            yield f"data: {json.dumps(_error_of(job))}\n\n"
    finally:
        endpoint.cancel(job)


def _response(job: Job) -> Response:
    if job.status is not Status.COMPLETED:
        error = _error_of(job)
        invalid = error["error"].get("type") == "invalid_request_error"
        return JSONResponse(error, 400 if invalid else 500)
    return JSONResponse(job.output[0] if isinstance(job.output, list) and job.output else job.output)


def _error_of(job: Job) -> dict[str, Any]:
    try:
        error = json.loads(job.error or "")
    except ValueError:
        error = None
    if isinstance(error, dict) and isinstance(error.get("error"), dict):
        return error
    message = job.error or f"The job ended as {job.status}."
    return {"error": {"message": message, "type": "server_error", "param": None, "code": None}}


ROUTES = [Route("/v2/{endpoint}/openai/v1/{path:path}", call, methods=["GET", "POST"])]
