"""The outcome of a soak test, and its printed form."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.soak.growth import MAX_OPEN_FILES, measure_growth
from tests.chaos.soak.resources import ResourceSamples


@dataclass
class Report:
    """The outcome of a soak test.

    Attributes:
        count: Jobs so far.
        faults: Number of jobs by the label of their fault.
        failures: What did not hold, by the id of the job that failed.
        lost: The reason, by the id of the lost job.
        resources: Samples by handler.
        warm: Whether a warm-up preceded the samples.
    """

    count: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    resources: dict[str, ResourceSamples] = field(default_factory=dict)
    warm: bool = False


def print_report(report: Report) -> int:
    """Prints a report and returns the exit code: 0 when every job survived, none was lost and no worker has grown."""
    for label, count in sorted(report.faults.items()):
        sys.stdout.write(f"{count:5}  {label}\n")
    for job_id, reason in {**report.failures, **report.lost}.items():
        sys.stdout.write(f"{job_id}: {reason}\n")
    failed = len(report.failures)
    sys.stdout.write(f"\nsurvived {max(report.count - failed, 0)}/{report.count}, lost {len(report.lost)}\n")
    grown = [_print_growth(handler, samples, report.warm) for handler, samples in report.resources.items()]
    return int(failed > 0 or len(report.lost) > 0 or any(grown))


def _print_growth(handler: str, samples: ResourceSamples, warm: bool) -> bool:
    """Prints what a worker has grown by, and returns whether it is too much."""
    growth = measure_growth(samples, warm=warm)
    if growth is None:
        sys.stdout.write(f"{handler:5} too few jobs to measure growth\n")
        return False
    verdict = "GROWS" if growth.is_leak else "ok"
    sys.stdout.write(
        f"{handler:5} job {growth.first_job} to {growth.last_job}: "
        f"{growth.memory / 2**20:+.2f} MiB (at most {growth.max_memory / 2**20:.2f}), "
        f"{growth.open_files:+d} open files (at most {MAX_OPEN_FILES})  {verdict}\n"
    )
    if growth.is_leak:
        steps = [after - before for before, after in pairwise(samples.memory)]
        largest = max(range(len(steps)), key=steps.__getitem__)
        sys.stdout.write(f"      most of it by its job {largest + 2}: {steps[largest] / 2**20:+.2f} MiB\n")
    return growth.is_leak
