"""Measures submissions: `python -m tests.supabase.benchmark`."""

from __future__ import annotations

import sys

from tests.doubles.deno import deno
from tests.doubles.postgres import PostgresServer


def main() -> int:
    """Prints the median and the throughput for the hosted runtime's version and the newest."""
    permissions = ("--no-check", "--allow-env", "--allow-read", "--allow-sys", "--allow-net=127.0.0.1")
    with PostgresServer() as server:
        for version in ("hosted", "newest"):
            database = server.new_database()
            measured = deno(version, "run", *permissions, "tests/benchmarks/submissions.ts", SUPABASE_DB_URL=database.url)
            sys.stdout.write(f"{version}: {measured}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
