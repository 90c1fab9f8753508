"""The table fits the repository, and removing says the truth about what is noticed."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.chaos.faults.registry import CASES
from tests.mutations.page import page
from tests.mutations.removal import Result, TableError, remove, without
from tests.mutations.table import Protection, fault, points

ROOT = Path(__file__).parents[2]
ENTRIES = [pytest.param(each, id=f"{point.title}-{index}") for point in points() for index, each in enumerate(point.protections)]

DIVIDER = """\
def share(total, parts):
    if parts < 1:
        raise ValueError("at least one")
    return total / parts
"""
TESTS = """\
import pytest
from divider import share

def test_none_is_refused():
    with pytest.raises(ValueError):
        share(1, 0)

def test_fewer_than_none_are_refused():
    with pytest.raises(ValueError):
        share(1, -1)

def test_sharing():
    assert share(4, 2) == 2
"""
GUARD = '    if parts < 1:\n        raise ValueError("at least one")\n'


def removed(folder: Path, *tests: str, text: str = GUARD, instead: str = "", shows: str = "") -> Result:
    (folder / "divider.py").write_text(DIVIDER)
    (folder / "test_divider.py").write_text(TESTS)
    ids = tuple(f"test_divider.py::{test}" for test in tests)
    return remove(Protection("Nothing is shared by none.", "divider.py", text, instead, ids, shows), folder)


@cache
def functions_of(file: str) -> frozenset[str]:
    """The names of all functions in a file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))) if isinstance(node, kinds))


@pytest.mark.parametrize("protection", ENTRIES)
def test_what_is_to_be_removed_is_there_once_and_so_are_its_tests(protection: Protection) -> None:
    assert without(protection, ROOT) != (ROOT / protection.file).read_text(encoding="utf-8")
    assert protection.tests
    for test in protection.tests:
        file, _, name = test.partition("::")
        assert name.partition("[")[0] in functions_of(file), test


def test_the_page_of_protections_is_current() -> None:
    assert (ROOT / "docs/mutations.md").read_text(encoding="utf-8") == page(), "run `python -m tests.mutations --page`"


def test_every_module_has_the_number_of_its_point() -> None:
    files = sorted(path.stem for path in Path(__file__).parent.glob("point_*.py"))
    assert [int(file.split("_")[1]) for file in files] == [point.number for point in points()]
    assert {point.number for point in points()} <= set(range(1, 13))


def test_every_fault_has_a_protection_without_which_it_is_not_survived() -> None:
    named = {test for point in points() for each in point.protections for test in each.tests}
    assert [number for number in sorted(CASES) if fault(number) not in named] == []


def test_only_what_fails_by_an_assertion_has_noticed_the_removal(tmp_path: Path) -> None:
    result = removed(tmp_path, "test_fewer_than_none_are_refused", "test_none_is_refused", "test_sharing")
    assert list(result.complaints.values()) == ["", "fails by ZeroDivisionError: division by zero", "passes"]
    assert not result.noticed
    assert (tmp_path / "divider.py").read_text() == DIVIDER, "only a copy was changed"


def test_another_failure_counts_where_the_entry_names_it(tmp_path: Path) -> None:
    assert removed(tmp_path, "test_none_is_refused", shows="ZeroDivisionError").noticed


@pytest.mark.parametrize(
    ("test", "text", "instead"),
    [("test_none_is_refused", "def share(", "def split("), ("test_that_nobody_wrote", GUARD, "")],
    ids=["nothing to import", "no such test"],
)
def test_a_test_that_did_not_run_has_noticed_nothing(tmp_path: Path, test: str, text: str, instead: str) -> None:
    assert list(removed(tmp_path, test, text=text, instead=instead).complaints.values()) == ["did not run"]


@pytest.mark.parametrize("text", ["total", "nothing like it", '("at least one")\n'], ids=["twice", "never", "not Python"])
def test_a_text_that_does_not_fit_is_an_error_of_the_table(tmp_path: Path, text: str) -> None:
    with pytest.raises(TableError, match=r"divider\.py"):
        removed(tmp_path, "test_sharing", text=text, instead="(")
