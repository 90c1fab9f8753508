"""The mutation table applies to the source, and the runner tells killed mutants from surviving ones."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.chaos.fault_injection.cases import CASES
from tests.mutations.mutation import Mutation, TableError, load_areas
from tests.mutations.page import render_page
from tests.mutations.runner import ROOT, MutationResult, Runner

MUTATIONS = [pytest.param(mutation, id=f"{area.name}-{index}") for area in load_areas() for index, mutation in enumerate(area.mutations)]

DIVIDER = """\
def share(total, parts):
    if parts < 1:
        raise ValueError("at least one")
    return total / parts
"""
TESTS = """\
import pytest
from divider import share

def test_zero_parts_are_rejected():
    with pytest.raises(ValueError):
        share(1, 0)

def test_negative_parts_are_rejected():
    with pytest.raises(ValueError):
        share(1, -1)

def test_quotient():
    assert share(4, 2) == 2
"""
GUARD = '    if parts < 1:\n        raise ValueError("at least one")\n'


def check(folder: Path, *tests: str, original: str = GUARD, mutant: str = "", exception: str = "") -> MutationResult:
    (folder / "divider.py").write_text(DIVIDER)
    (folder / "test_divider.py").write_text(TESTS)
    ids = tuple(f"test_divider.py::{test}" for test in tests)
    mutation = Mutation("The number of parts is positive.", "divider.py", original, mutant, ids, exception)
    return Runner(["pytest"]).check_mutation(mutation, folder)


@cache
def functions_of(file: str) -> frozenset[str]:
    """The names of all functions in a file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))) if isinstance(node, kinds))


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_mutation_applies_and_its_tests_exist(mutation: Mutation) -> None:
    assert mutation.apply(ROOT) != (ROOT / mutation.file).read_text(encoding="utf-8")
    assert mutation.tests
    for test in mutation.tests:
        file, _, name = test.partition("::")
        assert name.partition("[")[0] in functions_of(file), test


@pytest.mark.slow
def test_parameter_sets_of_the_table_exist() -> None:
    tests = sorted({test for area in load_areas() for mutation in area.mutations for test in mutation.tests})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, [line for line in done.stderr.splitlines() + done.stdout.splitlines() if line.startswith("ERROR")]


def test_page_is_current() -> None:
    assert (ROOT / "docs/mutations.md").read_text(encoding="utf-8") == render_page(), "run `python -m tests.mutations --page`"


def test_every_injected_fault_kills_a_mutant() -> None:
    tests = {test for area in load_areas() for mutation in area.mutations for test in mutation.tests}
    injecting = "tests/chaos/fault_injection/test_faults.py::test_worker_survives_fault"
    assert [number for number in sorted(CASES) if f"{injecting}[{number}]" not in tests] == []


def test_only_an_assertion_failure_kills_a_mutant(tmp_path: Path) -> None:
    result = check(tmp_path, "test_negative_parts_are_rejected", "test_zero_parts_are_rejected", "test_quotient")
    assert list(result.misses.values()) == ["", "fails by ZeroDivisionError: division by zero", "passes"]
    assert not result.killed
    assert (tmp_path / "divider.py").read_text() == DIVIDER, "the mutation is applied to a copy"


def test_another_exception_kills_a_mutant_when_the_entry_names_it(tmp_path: Path) -> None:
    assert check(tmp_path, "test_zero_parts_are_rejected", exception="ZeroDivisionError").killed


@pytest.mark.parametrize(
    ("test", "original", "mutant"),
    [("test_zero_parts_are_rejected", "def share(", "def split("), ("test_missing", GUARD, "")],
    ids=["import error", "unknown test"],
)
def test_a_test_that_did_not_run_kills_nothing(tmp_path: Path, test: str, original: str, mutant: str) -> None:
    assert list(check(tmp_path, test, original=original, mutant=mutant).misses.values()) == ["did not run"]


@pytest.mark.parametrize("original", ["total", "unknown text", '("at least one")\n'], ids=["twice", "never", "syntax error"])
def test_an_entry_that_does_not_apply_is_an_error_of_the_table(tmp_path: Path, original: str) -> None:
    with pytest.raises(TableError, match=r"divider\.py"):
        check(tmp_path, "test_quotient", original=original, mutant="(")
