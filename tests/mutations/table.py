"""What an entry is, and all of them."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from importlib import import_module

import tests.mutations


@dataclass(frozen=True)
class Protection:
    """Something that protects, and the tests that know when it is gone.

    Attributes:
        what: What it does, as one sentence.
        file: Where it is, from the root of the repository.
        text: What is removed; it occurs exactly once in the file.
        instead: What takes its place.
        tests: The ids of tests that must fail then. One without brackets stands for all its cases, of which one must fail.
        shows: The exception that the tests fail by, where it is not an assertion of theirs.
    """

    what: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]
    shows: str = ""


@dataclass(frozen=True)
class Point:
    """The protections of one point, or of a part of it.

    Attributes:
        number: 1 … 12.
        title: As the page calls it.
        protections: In the order of the page.
    """

    number: int
    title: str
    protections: tuple[Protection, ...]


def points() -> list[Point]:
    """All points, in the order of the modules `point_*`, of which each has its own as `POINT`."""
    names = sorted(module.name for module in pkgutil.iter_modules(tests.mutations.__path__) if module.name.startswith("point_"))
    return [import_module(f"tests.mutations.{name}").POINT for name in names]


def fault(number: str) -> str:
    """The id of the test that survives a fault: `F01` … `F40`."""
    return f"tests/chaos/faults/test_faults.py::test_a_fault_is_survived[{number}]"
