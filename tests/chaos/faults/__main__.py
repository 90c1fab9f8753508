"""`python -m tests.chaos.faults`: injects every fault, prints what held, writes `docs/reliability.md`. Ends with 1 when one was not survived."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.faults.page import page
from tests.chaos.faults.registry import CASES
from tests.chaos.faults.test_faults import IN_ORDER

PAGE = Path(__file__).parents[3] / "docs/reliability.md"


class Results:
    """How each case ended, in both orders."""

    def __init__(self) -> None:
        self.failed: Counter[str] = Counter()
        self.ran: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()

    def of(self, number: str) -> str:
        """In one word."""
        if self.failed[number]:
            return "FAILED"
        return "held" if self.ran[number] else "skipped" if self.skipped[number] else "not run"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest with the end of each test's setup, call and teardown."""
        number = report.nodeid.rpartition("[")[2].removesuffix("]")
        if report.when == "call" and not report.skipped:
            self.ran[number] += 1
        self.skipped[number] += report.skipped
        if report.failed:
            self.failed[number] += 1


def main() -> int:
    """Returns 0 when every case was survived, in order and by chance."""
    results = Results()
    code = pytest.main(["tests/chaos/faults", "-q", "--no-header", "-p", "no:cacheprovider", *sys.argv[1:]], plugins=[results])
    ends = {number: results.of(number) for number in IN_ORDER}
    for number, end in ends.items():
        sys.stdout.write(f"{number}  {end:9}{CASES[number].injected}\n             → {CASES[number].holds}\n")
    count = Counter(ends.values())
    failed = count["FAILED"] + count["not run"]
    sys.stdout.write("\nAfter each: S1 … S8 of docs/reliability.md, and a good job in the same worker.\n")
    sys.stdout.write(f"{count['held']} passed, {failed} failed{', ' + str(count['skipped']) + ' skipped' if count['skipped'] else ''}\n")
    if not failed:
        PAGE.write_text(page(), encoding="utf-8")
    return int(code) or int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
