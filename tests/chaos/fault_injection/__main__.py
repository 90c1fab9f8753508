"""`python -m tests.chaos.fault_injection`: injects every fault and writes `docs/reliability.md`. Exits with 1 if a worker fails a case."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.fault_injection.cases import CASES
from tests.chaos.fault_injection.page import render_page
from tests.chaos.fault_injection.test_faults import IN_ORDER

PAGE = Path(__file__).parents[3] / "docs/reliability.md"


class CaseOutcomes:
    """Pytest plugin that collects the outcomes of each case, in both orders."""

    def __init__(self) -> None:
        self.failed: Counter[str] = Counter()
        self.ran: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()

    def outcome_of(self, number: str) -> str:
        """Returns `passed`, `FAILED`, `skipped` or `not run`."""
        if self.failed[number]:
            return "FAILED"
        return "passed" if self.ran[number] else "skipped" if self.skipped[number] else "not run"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest after setup, call and teardown of each test."""
        number = report.nodeid.rpartition("[")[2].removesuffix("]")
        if report.when == "call" and not report.skipped:
            self.ran[number] += 1
        self.skipped[number] += report.skipped
        if report.failed:
            self.failed[number] += 1


def main() -> int:
    """Returns 0 when all cases passed in both orders."""
    collected = CaseOutcomes()
    code = pytest.main(["tests/chaos/fault_injection", "-q", "--no-header", "-p", "no:cacheprovider", *sys.argv[1:]], plugins=[collected])
    outcomes = {number: collected.outcome_of(number) for number in IN_ORDER}
    for number, outcome in outcomes.items():
        sys.stdout.write(f"{number}  {outcome:9}{CASES[number].injected}\n             → {CASES[number].expected}\n")
    count = Counter(outcomes.values())
    failed = count["FAILED"] + count["not run"]
    sys.stdout.write("\nAfter each: the invariants of docs/reliability.md, and a clean job in the same worker.\n")
    sys.stdout.write(f"{count['passed']} passed, {failed} failed{', ' + str(count['skipped']) + ' skipped' if count['skipped'] else ''}\n")
    if not failed:
        PAGE.write_text(render_page(), encoding="utf-8")
    return int(code) or int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
