"""Mutations, and the table of all of them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).parent / "table"


class TableError(Exception):
    """An entry does not apply to the source."""


@dataclass(frozen=True)
class Mutation:
    """A change to one file that breaks a guarantee of the product.

    Attributes:
        sentence: The guarantee, as `docs/mutations.md` states it.
        file: Path from the root of the repository.
        original: The text to replace; occurs exactly once in the file.
        mutant: The replacement.
        tests: Ids of the tests that must fail. An id without brackets stands for all its parameter sets, at least one of which must fail.
        exception: The exception that the tests fail with where it is not an assertion.
    """

    sentence: str
    file: str
    original: str
    mutant: str
    tests: tuple[str, ...]
    exception: str = ""

    def apply(self, root: Path) -> str:
        """Returns the mutated content of the file below `root`.

        Raises:
            TableError: The original text does not occur exactly once, or the result is not valid Python.
        """
        content = (root / self.file).read_text(encoding="utf-8")
        if (count := content.count(self.original)) != 1:
            raise TableError(f"{self.file} contains the original text {count} times, expected once: {self.sentence}")
        mutated = content.replace(self.original, self.mutant)
        if self.file.endswith(".py"):
            try:
                compile(mutated, self.file, "exec")
            except SyntaxError as error:
                raise TableError(f"{self.file}:{error.lineno} is not valid Python after the mutation: {self.sentence}") from None
        return mutated


@dataclass(frozen=True)
class Area:
    """The mutations of one TOML file.

    Attributes:
        name: Stem of the file.
        title: Heading in `docs/mutations.md`.
    """

    name: str
    title: str
    mutations: tuple[Mutation, ...]


def load_areas() -> list[Area]:
    """Reads the whole table, in the order of the file names.

    Raises:
        TableError: A file is not valid TOML.
    """
    return [_load(path) for path in sorted(TABLE.glob("*.toml"))]


def _load(path: Path) -> Area:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise TableError(f"{path.name} is not valid TOML: {error}") from error
    mutations = tuple(Mutation(**{**entry, "tests": tuple(entry["tests"])}) for entry in table["mutation"])
    return Area(path.stem, table["title"], mutations)
