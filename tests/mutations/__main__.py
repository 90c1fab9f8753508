"""`python -m tests.mutations`: runs the mutation tests and writes `docs/mutations.md`. Exits with 1 if a mutant survives."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.mutations.mutation import Mutation, TableError, load_areas
from tests.mutations.page import render_page
from tests.mutations.runner import ROOT, MutationResult, Runner, copy_repository, outcomes_of

PAGE = ROOT / "docs/mutations.md"
_WORKERS = 2
_BASELINE_TIMEOUT = 3600.0


def select(word: str | None) -> list[Mutation]:
    """Returns all mutations, those of the area called `word`, or those whose sentence or file contains it."""
    areas = load_areas()
    if word is None:
        return [mutation for area in areas for mutation in area.mutations]
    for area in areas:
        if area.name == word:
            return list(area.mutations)
    word = word.lower()
    return [mutation for area in areas for mutation in area.mutations if word in f"{mutation.sentence} {mutation.file}".lower()]


def main() -> int:
    """Returns 0 when every mutant was killed by all of its tests."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description="Runs the mutation tests.")
    parser.add_argument("--only", metavar="WORD", help="an area of the table, or a word of the sentence or of the file")
    parser.add_argument("--page", action="store_true", help="run nothing, and write docs/mutations.md")
    options = parser.parse_args()
    if options.page:
        PAGE.write_text(render_page(), encoding="utf-8")
        return 0
    mutations = select(options.only)
    if not mutations:
        sys.stderr.write(f"No mutation matches {options.only!r}.\n")
        return 1
    killed = _run(mutations)
    _print(f"\n{len(mutations)} mutants, {killed} killed, {len(mutations) - killed} survived")
    if killed == len(mutations) and options.only is None:
        PAGE.write_text(render_page(), encoding="utf-8")
    return int(killed != len(mutations))


def _run(mutations: Sequence[Mutation]) -> int:
    """Returns how many mutants were killed; none are tried when their tests do not pass without them."""
    runner = Runner()
    with TemporaryDirectory(prefix="mutations-") as folder, ThreadPoolExecutor(_WORKERS) as threads:
        template = Path(folder)
        copy_repository(ROOT, template)
        try:
            for mutation in mutations:
                mutation.apply(template)
        except TableError as error:
            sys.stderr.write(f"{error}\n")
            return 0
        if not _baseline_passes(runner, template, mutations, threads):
            return 0
        killed = 0
        for result in threads.map(partial(runner.check_mutation, template=template), mutations):
            _print_result(result)
            killed += result.killed
        return killed


def _baseline_passes(runner: Runner, template: Path, mutations: Sequence[Mutation], threads: ThreadPoolExecutor) -> bool:
    """Whether all tests pass without a mutation. Leaves bytecode in the template, which mutants use."""
    tests = sorted({test for mutation in mutations for test in mutation.tests})
    files = [list(group) for _, group in groupby(tests, lambda test: test.partition("::")[0])]
    _print(f"{len(tests)} tests without a mutation:")
    runs = threads.map(partial(runner.run_tests, template, timeout=_BASELINE_TIMEOUT), files)
    outcomes = [outcome for run in runs for outcome in run]
    failing = [test for test in tests if {each.outcome for each in outcomes_of(test, outcomes)} != {"passed"}]
    _print("\n".join(f"      does not pass   {test}" for test in failing) or "      all pass")
    return not failing


def _print_result(result: MutationResult) -> None:
    _print(f"{'killed' if result.killed else 'SURVIVED':10}{result.mutation.sentence}")
    for test, miss in result.misses.items():
        _print(f"      {miss or 'fails':14}  {test}")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
