"""`python -m tests.chaos.soak`: runs many jobs with random faults. Exits with 1 if a job fails or is lost, or if a worker grows."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]  # its types are a package of their own

from tests.chaos.fault_injection.harness import Harness
from tests.chaos.soak.growth import LONG, WARM_UP
from tests.chaos.soak.report import Report, print_report
from tests.chaos.soak.resources import ENVIRONMENT as MEASURED
from tests.chaos.soak.soak import Soak
from tests.doubles.models import tiny_models_at

ROOT = Path(__file__).parents[3]

# A worker that hangs exits soon after the deadline of its job.
ENVIRONMENT = MEASURED | {"JOB_GRACE": "1"}


def main() -> int:
    """Returns 0 when every job survived, none was lost and no worker has grown."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description="Runs many jobs with random faults.")
    parser.add_argument("--count", type=int, default=500, help="number of jobs")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="seed of jobs and faults")
    options = parser.parse_args()
    sys.stdout.write(f"{options.count} jobs, seed {options.seed}\n")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, tqdm(total=options.count, unit="job", disable=None) as bar:
        harness = Harness(Path(folder), tiny_models_at(ROOT), ENVIRONMENT)
        try:
            soak = Soak(harness, options.seed)
            report = soak.run(options.count, lambda so_far: _show(bar, so_far), warm_up=WARM_UP if options.count >= LONG else 0)
        finally:
            harness.close()
    return print_report(report)


def _show(bar: tqdm, report: Report) -> None:
    bar.set_postfix(failed=len(report.failures), refresh=False)
    bar.update()


if __name__ == "__main__":
    sys.exit(main())
