"""`python -m tests.chaos.soak`: many jobs, many faults, and what came of it. Ends with 1 when anything was lost, did not hold, or grows."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]  # its types are a package of their own

from tests.chaos.faults.world import World
from tests.chaos.soak.draws import HANDLERS
from tests.chaos.soak.held import ENVIRONMENT as MEASURED
from tests.chaos.soak.slopes import FIRST, LEAST, MATERIAL, WARM_UP, slope
from tests.chaos.soak.soak import Report, Soak
from tests.doubles.models import tiny_models_at

ROOT = Path(__file__).parents[3]

# A job deadline is followed soon by the end of what does not answer.
ENVIRONMENT = MEASURED | {"JOB_GRACE": "1"}


def main() -> int:
    """Returns 0 when every job was survived, nothing was lost and nothing grows."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="jobs")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of everything that is drawn")
    options = parser.parse_args()
    sys.stdout.write(f"{options.count} jobs, seed {options.seed}\n")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, tqdm(total=options.count, unit="job", disable=None) as bar:
        world = World(Path(folder), tiny_models_at(ROOT), ENVIRONMENT)
        try:
            report = Soak(world, options.seed).run(options.count, lambda so_far: _show(bar, so_far), first=_first(options.count))
        finally:
            world.close()
    return tell(report)


def _first(count: int) -> int:
    """How many jobs of each handler come before those that are counted: none where too few follow to say anything of growth."""
    return FIRST if count >= len(HANDLERS) * (WARM_UP + LEAST) else 0


def _show(bar: tqdm, report: Report) -> None:
    bar.set_postfix(failed=len(report.failures), refresh=False)
    bar.update()


def tell(report: Report) -> int:
    """Prints what came of it, and returns the exit code."""
    for name, count in sorted(report.met.items()):
        sys.stdout.write(f"{count:5}  {name}\n")
    for job_id, reason in {**report.failures, **report.lost}.items():
        sys.stdout.write(f"{job_id}: {reason}\n")
    failed = len(report.failures)
    sys.stdout.write(f"\nsurvived {max(report.count - failed, 0)}/{report.count}, lost {len(report.lost)}\n")
    sys.stdout.write(f"growth per 100 jobs, with 95 % certainty, from a worker's job {WARM_UP + 1} on:\n")
    grown = [_tell_slope(handler, what, lives) for handler in report.held for what, lives in _measured(report, handler)]
    return int(failed > 0 or len(report.lost) > 0 or any(grown))


def _measured(report: Report, handler: str) -> list[tuple[str, list[list[float]]]]:
    held = report.held[handler]
    return [("memory", [[size / 2**20 for size in life] for life in held.memory]), ("files", held.files)]


def _tell_slope(handler: str, what: str, lives: list[list[float]]) -> bool:
    """Prints one line, and returns whether what it says is a fault."""
    line = f"  {handler:5} {'memory, MiB' if what == 'memory' else 'open files':12}"
    found = slope(lives)
    if found is None:
        sys.stdout.write(f"{line} too few jobs to say ({LEAST} are needed)\n")
        return False
    grows = found.grows(MATERIAL[what])
    verdict = "GROWS" if grows else "can be told from zero, and does not matter" if found.is_seen else "not distinguishable from zero"
    sys.stdout.write(f"{line} {found.per_100:+7.2f}  ({found.low:+.2f} … {found.high:+.2f})  {verdict}\n")
    return grows


if __name__ == "__main__":
    sys.exit(main())
