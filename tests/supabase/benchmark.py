"""Measures what a submission adds to RunPod's own time, and how many are taken in a second: `python -m tests.supabase.benchmark`."""

from __future__ import annotations

import json
import sys

from tests.doubles.deno import VERSIONS, deno
from tests.doubles.postgres import PostgresServer

MOST_MILLISECONDS, LEAST_PER_SECOND = 30, 100
"""What is promised on two cores that nothing else uses."""


def main() -> int:
    """Prints a line for the hosted runtime's version and for the newest. Returns 1 unless both keep the promise."""
    permissions = ("--no-check", "--allow-env", "--allow-read", "--allow-sys", "--allow-net=127.0.0.1")
    kept = True
    with PostgresServer() as server:
        for version in VERSIONS:
            database = server.new_database()
            printed = deno(version, "run", *permissions, "tests/benchmarks/submissions.ts", SUPABASE_DB_URL=database.url)
            measured = json.loads(printed)
            verdict = measured["median"] <= MOST_MILLISECONDS and measured["per_second"] >= LEAST_PER_SECOND
            kept = kept and verdict
            sys.stdout.write(
                f"RESULT {version} Deno: a submission adds {measured['median']:.1f} ms (median; 95 % within {measured['p95']:.1f} ms;"
                f" at most {MOST_MILLISECONDS} ms promised); {measured['at_once']} at once: {measured['per_second']:.0f} a second"
                f" (at least {LEAST_PER_SECOND} promised): {'kept' if verdict else 'NOT KEPT'}\n"
            )
            sys.stdout.flush()
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
