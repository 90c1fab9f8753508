"""What a load costs on an endpoint, and how long its jobs wait: `python -m benchmarks.endpoint --jobs-per-hour 600 --gpu-seconds 8`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.endpoint.load import poisson_arrivals
from benchmarks.endpoint.page import PAGE, render
from benchmarks.endpoint.simulation import Endpoint, JobShape, Outcome, percentile, simulate

COLUMNS = ("concurrency", "cost", "per 1000 jobs", "GPU busy", "starts", "wait: mean", "half", "95 %", "longest")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.page:
        PAGE.write_text(render(), encoding="utf-8")
        return 0
    job = JobShape(options.before, options.gpu_seconds, options.after)
    endpoint = Endpoint(
        min_workers=options.min_workers,
        max_workers=options.max_workers,
        start=options.start,
        idle_timeout=options.idle_timeout,
        scaler=options.scaler,
        threshold=options.threshold,
        price=options.price,
    )
    arrivals = poisson_arrivals(options.jobs_per_hour, options.hours, burst=options.burst, seed=options.seed)
    if not arrivals:
        parser.error("no job arrives in this time; raise --jobs-per-hour or --hours")
    load = len(arrivals) * job.gpu / 3600 / options.hours
    print(f"{len(arrivals)} jobs in {options.hours:g} hours; one worker would compute for {load:.0%} of the time")
    print(" ".join(f"{column:>13}" for column in COLUMNS))
    for concurrency in options.concurrency:
        outcome = simulate(arrivals, job, replace(endpoint, concurrency=concurrency), options.seed)
        print(" ".join(f"{cell:>13}" for cell in (str(concurrency), *_cells(outcome))))
    return 0


def _cells(outcome: Outcome) -> tuple[str, ...]:
    waits = outcome.waits
    return (
        f"$ {outcome.cost:.2f}",
        f"$ {1000 * outcome.cost / len(waits):.2f}",
        f"{outcome.busy_share:.0%}",
        str(outcome.starts),
        *(f"{seconds:.1f} s" for seconds in (sum(waits) / len(waits), percentile(waits, 0.5), percentile(waits, 0.95), max(waits))),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endpoint", description=__doc__)
    defaults = Endpoint()
    parser.add_argument("--jobs-per-hour", type=float, default=600.0)
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument("--burst", type=int, default=1, help="jobs that arrive together")
    parser.add_argument("--gpu-seconds", type=float, default=8.0, help="of one job: `generate` in its timings")
    parser.add_argument("--before", type=float, default=0.05, help="seconds before: `validate` and `fetch`")
    parser.add_argument("--after", type=float, default=0.5, help="seconds after: `encode`, `upload`, and the callback")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 2], help="values of JOB_CONCURRENCY to compare")
    parser.add_argument("--start", type=float, default=defaults.start, help="seconds from a worker's creation to its first job")
    parser.add_argument("--idle-timeout", type=float, default=defaults.idle_timeout)
    parser.add_argument("--min-workers", type=int, default=defaults.min_workers, help="active workers")
    parser.add_argument("--max-workers", type=int, default=defaults.max_workers)
    parser.add_argument("--scaler", choices=("delay", "requests"), default=defaults.scaler)
    parser.add_argument("--threshold", type=float, default=defaults.threshold, help="seconds of delay, or requests per worker")
    parser.add_argument("--price", type=float, default=defaults.price, help="dollars per second of a worker")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", action="store_true", help="write docs/endpoint-simulation.md instead")
    return parser


if __name__ == "__main__":
    sys.exit(main())
