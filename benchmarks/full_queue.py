"""Measures how much of its time a worker computes while the queue is full: `python -m benchmarks.full_queue`.

SDXL's handler runs in RunPod's SDK against the local gateway, with a recipe that sleeps instead of computing, so that a busy machine
disturbs little. The share is what the bare GPU time of all jobs has of the time from the first job's start on the GPU to the last one's
end. The simulation of `benchmarks.endpoint` is printed beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.endpoint.simulation import START_INTERVAL, JobShape, simulate
from benchmarks.endpoint.simulation import Endpoint as SimulatedEndpoint
from benchmarks.sleeping_worker import GPU_SECONDS
from handlers.sdxl.handler import HANDLER
from playground.forked import ForkServer, initial_environment
from playground.gateway.endpoint import Endpoint
from playground.gateway.jobs import Job
from playground.gateway.server import Gateway, GatewayOptions

JOBS, SECONDS, CONCURRENCY = 10, (1.6, 2.9), (0, 1)
_MODULE = "benchmarks.sleeping_worker"
_READY_TIMEOUT = 300.0  # seconds; the fork server imports libraries first


@dataclass(frozen=True)
class FullQueue:
    """One measurement.

    Attributes:
        seconds: Of a job on the GPU.
        concurrency: The value of `JOB_CONCURRENCY`; 0 if it was unset.
        share: Of the time in which the GPU worked.
        simulated: The same by the simulation.
        around: Seconds of a job beside the GPU, on an idle worker, without the SDK's polling.
    """

    seconds: float
    concurrency: int
    share: float
    simulated: float
    around: float


def main(arguments: list[str] | None = None) -> int:
    """Prints a line of JSON for each length of a job and each concurrency."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_queue", description=__doc__)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--seconds", type=float, nargs="+", default=SECONDS, help="on the GPU, of a job")
    parser.add_argument("--concurrency", type=int, nargs="+", default=CONCURRENCY, help="values of JOB_CONCURRENCY; 0 leaves it unset")
    options = parser.parse_args(arguments)
    for measured in compare(options.jobs, options.seconds, options.concurrency):
        print(json.dumps(asdict(measured)), flush=True)
    return 0


def compare(jobs: int = JOBS, lengths: Sequence[float] = SECONDS, concurrencies: Sequence[int] = CONCURRENCY) -> Iterator[FullQueue]:
    """Measures every combination on a worker of its own."""
    fork_server = ForkServer(initial_environment())
    try:
        for seconds, concurrency in product(lengths, concurrencies):
            share, job = asyncio.run(measure(fork_server, jobs, seconds, concurrency))
            expected = simulated(jobs, job, concurrency or HANDLER.default_concurrency)
            yield FullQueue(seconds, concurrency, round(share, 3), round(expected, 3), round(job.before + job.after, 3))
    finally:
        fork_server.close()


def simulated(jobs: int, job: JobShape, concurrency: int) -> float:
    """Returns the share that the simulation finds, for jobs of this shape that are in the queue from the beginning."""
    endpoint = SimulatedEndpoint(concurrency, min_workers=1, max_workers=1, start=0)
    starts = simulate([0.0] * jobs, job, endpoint).waits
    return jobs * job.gpu / (starts[-1] + job.gpu - starts[0])


async def measure(fork_server: ForkServer, jobs: int, seconds: float, concurrency: int) -> tuple[float, JobShape]:
    """Runs jobs on a fresh worker: one alone, to warm up, then all others at once.

    Returns:
        The GPU's share of the time, and the shape of the first job.
    """
    variables = {GPU_SECONDS: str(seconds)} | ({"JOB_CONCURRENCY": str(concurrency)} if concurrency else {})
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        gateway = Gateway(GatewayOptions(output, output, {"sdxl": _MODULE}, port=0, variables=variables), fork_server)
        (endpoint,) = gateway.endpoints
        serving = asyncio.ensure_future(gateway.run())
        try:
            await _ready(endpoint)
            (alone,) = await _run_jobs(endpoint, 1, "alone")
            spans = [_span(job) for job in await _run_jobs(endpoint, jobs, "job")]
        finally:
            gateway.stop()
            await serving
    return jobs * seconds / (max(end for _, end in spans) - min(start for start, _ in spans)), _shape(alone)


async def _ready(endpoint: Endpoint) -> None:
    await endpoint.wait(lambda: "ready" in endpoint.workers.values(), _READY_TIMEOUT)
    if "ready" not in endpoint.workers.values():
        raise TimeoutError(f"The worker is not ready after {_READY_TIMEOUT:g} s.")


async def _run_jobs(endpoint: Endpoint, count: int, prefix: str) -> list[Job]:
    """Queues jobs and returns them once all have ended."""
    running = [endpoint.submit({"input": _input(f"{prefix}-{number}")}) for number in range(count)]
    ended: set[str] = set()
    change = asyncio.Event()

    def note(job: Job) -> None:
        ended.add(job.id)
        change.set()

    endpoint.on_end.append(note)
    while not ended.issuperset(job.id for job in running):
        change.clear()
        await change.wait()
    endpoint.on_end.remove(note)
    return running


def _shape(job: Job) -> JobShape:
    (start, end), taken, ended = _span(job), job.taken or 0.0, job.ended or 0.0
    return JobShape(max(0.0, start - taken - START_INTERVAL / 2), end - start, ended - end)


def _span(job: Job) -> tuple[float, float]:
    """When the job was on the GPU, by the clock that the gateway uses too."""
    if not isinstance(job.output, dict) or job.output.get("status") != "completed":
        raise SystemExit(f"a job did not complete: {job.output}")
    start, end = job.output["metadata"]["gpu_span"]
    return start, end


def _input(job_id: str) -> dict[str, Any]:
    config = {"resolution": "512x512", "steps": 10}
    return {"id": job_id, "user_id": "bench", "type": "sdxl_image_fast", "prompt": "a red circle", "config": config}


if __name__ == "__main__":
    raise SystemExit(main())
