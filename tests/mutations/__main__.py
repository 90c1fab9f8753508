"""`python -m tests.mutations`: removes every protection, prints who noticed, writes `docs/mutations.md`. Ends with 1 if nobody did."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.mutations.page import page
from tests.mutations.removal import Result, TableError, copy_repository, of_test, remove, run_tests, without
from tests.mutations.table import Protection, points

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/mutations.md"
_AT_ONCE = 2

Chosen = Sequence[tuple[int, Protection]]


def chosen(only: str | None) -> Chosen:
    """All entries with their points; or those of a point, or those whose sentence has a word."""
    entries = [(point.number, each) for point in points() for each in point.protections]
    if only is None:
        return entries
    return [(number, each) for number, each in entries if only == str(number) or (not only.isdigit() and only.lower() in each.what.lower())]


def show(number: int, result: Result) -> None:
    """Prints a line for the protection, and one for each of its tests."""
    sys.stdout.write(f"{number:2}  {'noticed' if result.noticed else 'NOTICED BY NOBODY':18}{result.protection.what}\n")
    for test, complaint in result.complaints.items():
        sys.stdout.write(f"      {complaint or 'fails':14}  {test}\n")
    sys.stdout.flush()


def failing(whole: Path, tests: Sequence[str]) -> list[str]:
    """The tests that do not even pass while everything is there."""
    verdicts = run_tests(whole, tests, seconds=3600.0)
    return [test for test in tests if {verdict.end for verdict in of_test(test, verdicts)} != {"passed"}]


def main() -> int:
    """Returns 0 when every removal was noticed by every test that is named beside it."""
    parser = argparse.ArgumentParser(description="Removes protections, and demands that their tests fail.")
    parser.add_argument("--only", help="the number of a point, or a word of the entry's sentence")
    parser.add_argument("--page", action="store_true", help="remove nothing, and write docs/mutations.md")
    arguments = parser.parse_args()
    if arguments.page:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    entries = chosen(arguments.only)
    if not entries:
        sys.stderr.write(f"No point and no sentence matches {arguments.only!r}.\n")
        return 1
    noticed = _remove_all(entries)
    sys.stdout.write(f"\n{len(entries)} removed, {noticed} noticed\n")
    if noticed == len(entries) and arguments.only is None:
        PAGE.write_text(page(), encoding="utf-8")
    return int(noticed != len(entries))


def _remove_all(entries: Chosen) -> int:
    tests = sorted({test for _, each in entries for test in each.tests})
    with TemporaryDirectory(prefix="protections-") as folder, ThreadPoolExecutor(_AT_ONCE) as threads:
        whole = Path(folder)
        copy_repository(ROOT, whole)
        try:
            for _, each in entries:
                without(each, whole)
        except TableError as error:
            sys.stderr.write(f"{error}\n")
            return 0
        sys.stdout.write(f"{len(tests)} tests with everything in its place:\n")
        sys.stdout.flush()
        if bad := failing(whole, tests):
            sys.stdout.write("".join(f"      does not pass   {test}\n" for test in bad))
            return 0
        sys.stdout.write("      all pass\n")
        results = threads.map(partial(remove, whole=whole), (each for _, each in entries))
        noticed = 0
        for (number, _), result in zip(entries, results, strict=True):
            show(number, result)
            noticed += result.noticed
        return noticed


if __name__ == "__main__":
    sys.exit(main())
