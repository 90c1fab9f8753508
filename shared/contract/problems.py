"""Converts pydantic's errors to messages for the caller: the constraint, the value, the nearest allowed value."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice

from pydantic import BaseModel
from pydantic import ValidationError as PydanticError
from pydantic_core import ErrorDetails

from shared.contract.constraints import Schema, describe_constraint, group_thousands, nearest, resolve
from shared.contract.field_location import field_locations
from shared.contract.names import looks_like_a_key
from shared.contract.rejections import CONFLICT, REQUIREMENT, VALUE
from shared.errors import Conflict, Problem, ValidationError

_MAX_PROBLEMS = 25
# Short words are shown as sent. Anything longer or less plain may be a prompt, a token or a URL.
_WORD = re.compile(r"[A-Za-z0-9_+.:*-]{1,32}")
# The error types whose string input is shown. Of others, such as a prompt or a reference, only the length is.
_SHOWN = {"literal_error", "int_type", "float_type", "bool_type", "enum"}


def show_value(value: object, *, show_text: bool = True) -> str:
    """Formats a value for a message: numbers and short words as they are, everything else by its kind and size."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if abs(value) < 10**20 else "a whole number of more than 20 digits"
        case float():
            return repr(value) if math.isfinite(value) else "a number that is not finite"
        case str():
            shown = show_text and _WORD.fullmatch(value) and not looks_like_a_key(value)
            return f'"{value}"' if shown else _describe_text(value)
        case Mapping():
            return "an object"
        case Sequence():
            return "an empty list" if not value else f"a list of {group_thousands(len(value))} item{'s' * (len(value) > 1)}"
    return "something that is not JSON"


def _describe_text(text: str) -> str:
    return "an empty string" if not text else f"a string of {group_thousands(len(text))} character{'s' * (len(text) > 1)}"


def validation_error(
    known: Sequence[Problem], more: Iterable[Problem] = (), count: int = 0, warnings: Iterable[str] = ()
) -> ValidationError:
    """Returns the error that lists the problems, or the first of very many and the number of the others.

    Args:
        known: Problems found while collecting values.
        more: Problems found while validating values; consumed only as far as they are listed.
        count: The number of `more`.
        warnings: The warnings so far.
    """
    named = [*known, *islice(more, max(0, _MAX_PROBLEMS - len(known)))][:_MAX_PROBLEMS]
    return ValidationError(named, more=len(known) + count - len(named), warnings=warnings)


def independent_errors(error: PydanticError) -> list[ErrorDetails]:
    """Returns pydantic's errors without those that only follow from another one.

    A list is called too short when its invalid items leave too few valid ones, and the value of an invalid key is judged as well.
    """
    details = error.errors(include_url=False)
    locations = {detail["loc"] for detail in details}
    containers = {location[:depth] for location in locations for depth in range(len(location))}
    return [
        detail
        for detail in details
        if not (detail["type"] == "too_short" and detail["loc"] in containers) and (*detail["loc"], "[key]") not in locations
    ]


def to_problems(model: type[BaseModel], errors: Iterable[ErrorDetails], sources: Mapping[str, str]) -> Iterator[Problem]:
    """Converts pydantic's errors, one problem each.

    Args:
        model: The request that did not validate.
        errors: The errors that pydantic found.
        sources: The path of each field, as the caller wrote it.
    """
    return (_to_problem(model, detail, sources) for detail in errors)


def _to_problem(model: type[BaseModel], detail: ErrorDetails, sources: Mapping[str, str]) -> Problem:
    if detail["type"] in (CONFLICT, REQUIREMENT):
        return _to_conflict(model, detail, sources)
    rejection = detail["ctx"] if detail["type"] == VALUE else {}
    schema = schema_of(model)
    location, node = _find(schema, (rejection["field"],) if rejection.get("field") else detail["loc"])
    # Of a missing value, pydantic's input is the object that it is missing from.
    value = None if detail["type"] == "missing" else detail["input"]
    near = rejection.get("nearest") if rejection else nearest(node, value)
    return Problem(
        _path(location, sources),
        rejection.get("sent") or show_value(value, show_text=detail["type"] in _SHOWN),
        rejection.get("allowed") or describe_constraint(node, schema),
        None if near is None else str(near),
    )


def _to_conflict(model: type[BaseModel], detail: ErrorDetails, sources: Mapping[str, str]) -> Conflict:
    locations, rejection = field_locations(model), detail["ctx"]
    names = [locations[name].path if name in locations else name for name in (rejection["subject"], *rejection["others"])]
    make = Conflict.between if detail["type"] == CONFLICT else Conflict.missing
    return make(*names, field=_path(detail["loc"], sources), sent="nothing" if detail["input"] is None else "given")


def _path(location: Sequence[int | str], sources: Mapping[str, str]) -> str:
    root = str(location[0])
    rest = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location[1:])
    return sources.get(root, root) + rest


@lru_cache(maxsize=16)
def schema_of(model: type[BaseModel]) -> Schema:
    """Returns the JSON Schema of a request, cached."""
    return model.model_json_schema(mode="validation")


def _find(schema: Schema, location: Sequence[int | str]) -> tuple[Sequence[int | str], Schema]:
    """Follows a location as far as the schema declares it. Inside free-form values, such as a JSON Schema, names are the caller's."""
    node = resolve(schema, schema)
    for depth, part in enumerate(location):
        inner = _inside(node, part, schema)
        if inner is None:
            return location[:depth], node
        node = resolve(inner, schema)
    return location, node


def _inside(node: Schema, part: int | str, schema: Schema) -> Schema | None:
    """Returns the node at an index or a name, in the alternative that has one."""
    for option in node.get("anyOf", (node,)):
        form = resolve(option, schema)
        inner: Schema | None = form.get("items") if isinstance(part, int) else form.get("properties", {}).get(part)
        if inner is not None:
            return inner
    return None
