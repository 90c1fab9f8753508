"""From what a caller sends, nested and in two generations of names, to one flat set of values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from pydantic import BaseModel

from shared.contract.context import RequestWarnings
from shared.contract.field_location import SECTIONS, FieldLocation, Section, field_locations, path_of
from shared.contract.names import Vocabulary, show_name
from shared.contract.problems import show_value
from shared.errors import Problem, ValidationError

_MOST_UNKNOWN = 12
_INNER: tuple[Section, ...] = ("config", "metadata")
_Sections = Mapping[Section, Mapping[object, object]]


@dataclass(frozen=True)
class CollectedFields:
    """The values of a request by field.

    Attributes:
        values: What was given, `null` left out.
        sources: Where each field stands, as the caller wrote it; for absent ones the canonical section.
        problems: What is already wrong.
    """

    values: dict[str, object] = field(default_factory=dict, repr=False)
    sources: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def collect_fields(
    model: type[BaseModel], raw: object, warnings: RequestWarnings, *, descriptive: frozenset[str] = frozenset()
) -> CollectedFields:
    """Finds the value of every field: `config` before the top level before `metadata`, in each the canonical name before its aliases.

    Args:
        model: The request whose declarations say what stands where.
        raw: What came as the job's input.
        warnings: Gets a warning for every name that means nothing, and for every value that another one overrules.
        descriptive: Names that callers send along and that are known to mean nothing here.

    Raises:
        ValidationError: The input is not an object.
    """
    if not isinstance(raw, Mapping):
        raise ValidationError([Problem("input", show_value(raw), "an object with the fields of the request")])
    collected = CollectedFields()
    sections = _open(raw, collected.problems)
    declared = field_locations(model)
    for name, location in declared.items():
        _find(name, location, sections, collected, warnings)
    _name_unknown(declared.values(), sections, descriptive, warnings)
    return collected


def _open(raw: Mapping[object, object], problems: list[Problem]) -> _Sections:
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
        if not _contradicts(value, found[0][2]):
            continue
        if location.must_agree:
            collected.problems.append(Problem(path_of(section, alias), "another value", f"the same as {collected.sources[name]}"))
        elif section != "metadata":
            warnings.add(f"{path_of(section, alias)}: not used, because {collected.sources[name]} is given")


def _contradicts(value: object, chosen: object) -> bool:
    # Lists and objects are not compared: what a stranger nests may be too deep for it.
    return isinstance(value, str | int | float) and isinstance(chosen, str | int | float) and value != chosen


def _name_unknown(declared: Iterable[FieldLocation], sections: _Sections, descriptive: frozenset[str], warnings: RequestWarnings) -> None:
    declared = list(declared)
    known: set[tuple[str, object]] = {candidate for location in declared for candidate in location.candidates()}
    known |= {("top", "config"), ("top", "metadata")}
    # In metadata a caller may keep whatever it likes.
    unknown = [
        (section, name)
        for section in SECTIONS
        if section != "metadata"
        for name in sections[section]
        if _is_unknown(section, name, known, descriptive)
    ]
    vocabulary = Vocabulary(
        (alias.rpartition(".")[2], location.path) for location in declared for alias in (location.path, *location.aliases)
    )
    for section, name in unknown[:_MOST_UNKNOWN]:
        meant = vocabulary.nearest(name)
        hint = f"; did you mean {meant}?" if meant is not None else ""
        warnings.add(f"{path_of(section, show_name(name))}: not a known field, ignored{hint}")
    warnings.add_omitted(max(0, len(unknown) - _MOST_UNKNOWN))


def _is_unknown(section: Section, name: object, known: Set[tuple[str, object]], descriptive: frozenset[str]) -> bool:
    return (section, name) not in known and name not in descriptive
