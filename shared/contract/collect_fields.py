"""Collects the values of a request from its sections (`config`, top level, `metadata`), resolving aliases and precedence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Final

from pydantic import BaseModel

from shared.contract.constraints import group_thousands
from shared.contract.context import RequestWarnings
from shared.contract.field_location import SECTIONS, FieldLocation, Section, field_locations, path_of
from shared.contract.names import Vocabulary, show_name
from shared.contract.problems import show_value
from shared.errors import Problem, ValidationError

MAX_VALUES: Final = 50_000
"""Values of a request, nested ones included: those of lists and objects count one by one."""

MAX_CHARACTERS: Final = 2**26
"""Characters of all texts of a request together."""

MAX_DEPTH: Final = 100
"""Lists and objects inside one another."""

_MAX_UNKNOWN_WARNINGS = 12
_INNER: tuple[Section, ...] = ("config", "metadata")
_Sections = Mapping[Section, Mapping[object, object]]


@dataclass(frozen=True)
class CollectedFields:
    """The values of a request by field.

    Attributes:
        values: The given values, without `null`.
        sources: The path of each field as the caller wrote it; of absent ones the canonical path.
        problems: Problems found so far.
    """

    values: dict[str, object] = field(default_factory=dict, repr=False)
    sources: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def ensure_bounded(raw: object) -> None:
    """Checks the size of a request, in time that does not depend on it.

    Raises:
        ValidationError: It has too many values or characters, or they are nested too deeply.
    """
    level: list[object] = [raw]
    values = characters = depth = 0
    while level:
        values += len(level)
        characters += sum(len(each) for each in level if isinstance(each, str))
        containers = [each for each in level if isinstance(each, list | tuple | dict)]
        if depth > MAX_DEPTH and containers:
            raise _refused("nested more deeply", f"lists and objects at most {MAX_DEPTH} deep")
        if values + sum(map(len, containers)) > MAX_VALUES:
            raise _refused("more values", f"at most {group_thousands(MAX_VALUES)} values")
        if characters > MAX_CHARACTERS:
            raise _refused("more characters", f"at most {group_thousands(MAX_CHARACTERS)} characters")
        level = [inner for each in containers for inner in (each.values() if isinstance(each, dict) else each)]
        depth += 1


def _refused(sent: str, allowed: str) -> ValidationError:
    return ValidationError([Problem("input", sent, allowed)])


def collect_fields(
    model: type[BaseModel],
    raw: object,
    warnings: RequestWarnings,
    *,
    descriptive: frozenset[str] = frozenset(),
    repeated: frozenset[str] = frozenset(),
) -> CollectedFields:
    """Finds the value of every field. `config` wins over the top level, that over `metadata`; within each, the canonical name wins.

    Args:
        model: The request, whose field declarations hold the locations.
        raw: The job's input.
        warnings: Receives a warning for every unknown name, and for every value that another one overrides.
        descriptive: Known names without effect, which callers may send.
        repeated: Names of the top level that callers may repeat in `config`.

    Raises:
        ValidationError: The input is not an object.
    """
    if not isinstance(raw, Mapping):
        raise ValidationError([Problem("input", show_value(raw), "an object with the fields of the request")])
    collected = CollectedFields()
    sections = _open_sections(raw, collected.problems)
    declared = field_locations(model)
    for name, location in declared.items():
        _find(name, location, sections, collected, warnings)
    ignored = {(section, name) for section in _INNER for name in repeated} | {
        (section, name) for section in SECTIONS for name in descriptive
    }
    _warn_of_unknown(declared.values(), sections, ignored, warnings)
    return collected


def _open_sections(raw: Mapping[object, object], problems: list[Problem]) -> _Sections:
    sections: dict[Section, Mapping[object, object]] = {"top": raw, "config": {}, "metadata": {}}
    for section in _INNER:
        inner = raw.get(section)
        if isinstance(inner, Mapping):
            sections[section] = inner
        elif inner is not None:
            problems.append(Problem(section, show_value(inner), "an object"))
    return sections


def _find(name: str, location: FieldLocation, sections: _Sections, collected: CollectedFields, warnings: RequestWarnings) -> None:
    found = [(section, alias, value) for section, alias in location.candidates() if (value := sections[section].get(alias)) is not None]
    collected.sources[name] = path_of(*found[0][:2]) if found else location.path
    if not found:
        return
    collected.values[name] = found[0][2]
    for section, alias, value in found[1:]:
        if not _differs(value, found[0][2]):
            continue
        if location.must_agree:
            collected.problems.append(Problem(path_of(section, alias), "a different value", f"the same as `{collected.sources[name]}`"))
        elif section != "metadata":
            warnings.add_ignored(path_of(section, alias), f"`{collected.sources[name]}` is given")


def _differs(value: object, chosen: object) -> bool:
    # Lists and objects are not compared: untrusted input may nest too deeply for it.
    return isinstance(value, str | int | float) and isinstance(chosen, str | int | float) and value != chosen


def _warn_of_unknown(
    declared: Iterable[FieldLocation], sections: _Sections, ignored: Set[tuple[Section, str]], warnings: RequestWarnings
) -> None:
    declared = list(declared)
    known: set[tuple[str, object]] = {candidate for location in declared for candidate in location.candidates()}
    known |= {("top", "config"), ("top", "metadata"), *ignored}
    # Callers may keep anything in metadata.
    unknown = [
        (section, name)
        for section in SECTIONS
        if section != "metadata"
        for name, value in sections[section].items()
        if (section, name) not in known and value is not None
    ]
    if not unknown:
        return
    vocabulary = Vocabulary(
        (alias.rpartition(".")[2], location.path) for location in declared for alias in (location.path, *location.aliases)
    )
    for section, name in unknown[:_MAX_UNKNOWN_WARNINGS]:
        warnings.add_unknown(path_of(section, show_name(name)), vocabulary.nearest(name))
    warnings.add_omitted(max(0, len(unknown) - _MAX_UNKNOWN_WARNINGS))
