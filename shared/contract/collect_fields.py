"""From what a caller sends, nested and in two generations of names, to one flat set of values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from pydantic import BaseModel

from shared.contract.context import Notes
from shared.contract.field_location import PLACES, Place, Wire, path_of, wires
from shared.contract.names import Vocabulary, show_name
from shared.contract.problems import describe
from shared.errors import Problem, ValidationError

_MOST_UNKNOWN = 12
_INNER: tuple[Place, ...] = ("config", "metadata")
_Places = Mapping[Place, Mapping[object, object]]


@dataclass(frozen=True)
class Gathered:
    """The values of a request by field.

    Attributes:
        values: What was given, `null` left out.
        sources: Where each field stands, as the caller wrote it; for absent ones the canonical place.
        problems: What is already wrong.
    """

    values: dict[str, object] = field(default_factory=dict, repr=False)
    sources: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def gather(model: type[BaseModel], raw: object, notes: Notes, *, descriptive: frozenset[str] = frozenset()) -> Gathered:
    """Finds the value of every field: `config` before the top level before `metadata`, in each the canonical name before its aliases.

    Args:
        model: The request whose declarations say what stands where.
        raw: What came as the job's input.
        notes: Gets a warning for every name that means nothing, and for every value that another one overrules.
        descriptive: Names that callers send along and that are known to mean nothing here.

    Raises:
        ValidationError: The input is not an object.
    """
    if not isinstance(raw, Mapping):
        raise ValidationError([Problem("input", describe(raw), "an object with the fields of the request")])
    gathered = Gathered()
    places = _open(raw, gathered.problems)
    declared = wires(model)
    for name, wire in declared.items():
        _find(name, wire, places, gathered, notes)
    _name_unknown(declared.values(), places, descriptive, notes)
    return gathered


def _open(raw: Mapping[object, object], problems: list[Problem]) -> _Places:
    places: dict[Place, Mapping[object, object]] = {"top": raw, "config": {}, "metadata": {}}
    for place in _INNER:
        inner = raw.get(place)
        if isinstance(inner, Mapping):
            places[place] = inner
        elif inner is not None:
            problems.append(Problem(place, describe(inner), "an object"))
    return places


def _find(name: str, wire: Wire, places: _Places, gathered: Gathered, notes: Notes) -> None:
    found = [(place, alias, value) for place, alias in wire.candidates() if (value := places[place].get(alias)) is not None]
    gathered.sources[name] = path_of(*found[0][:2]) if found else wire.path
    if not found:
        return
    gathered.values[name] = found[0][2]
    for place, alias, value in found[1:]:
        if not _contradicts(value, found[0][2]):
            continue
        if wire.agrees:
            gathered.problems.append(Problem(path_of(place, alias), "another value", f"the same as {gathered.sources[name]}"))
        elif place != "metadata":
            notes.add(f"{path_of(place, alias)}: not used, because {gathered.sources[name]} is given")


def _contradicts(value: object, chosen: object) -> bool:
    # Lists and objects are not compared: what a stranger nests may be too deep for it.
    return isinstance(value, str | int | float) and isinstance(chosen, str | int | float) and value != chosen


def _name_unknown(declared: Iterable[Wire], places: _Places, descriptive: frozenset[str], notes: Notes) -> None:
    declared = list(declared)
    known: set[tuple[str, object]] = {candidate for wire in declared for candidate in wire.candidates()}
    known |= {("top", "config"), ("top", "metadata")}
    # In metadata a caller may keep whatever it likes.
    unknown = [
        (place, name) for place in PLACES if place != "metadata" for name in places[place] if _is_unknown(place, name, known, descriptive)
    ]
    vocabulary = Vocabulary((alias.rpartition(".")[2], wire.path) for wire in declared for alias in (wire.path, *wire.aliases))
    for place, name in unknown[:_MOST_UNKNOWN]:
        meant = vocabulary.nearest(name)
        hint = f"; did you mean {meant}?" if meant is not None else ""
        notes.add(f"{path_of(place, show_name(name))}: not a known field, ignored{hint}")
    notes.leave_out(max(0, len(unknown) - _MOST_UNKNOWN))


def _is_unknown(place: Place, name: object, known: Set[tuple[str, object]], descriptive: frozenset[str]) -> bool:
    return (place, name) not in known and name not in descriptive
