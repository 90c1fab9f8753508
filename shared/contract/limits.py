"""Limits of a request as a whole, checked before any of its values is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from annotated_types import MaxLen
from pydantic import BaseModel

from shared.contract.constraints import describe_constraint, group_thousands
from shared.contract.problems import schema_of, show_value, validation_error
from shared.errors import Problem, ValidationError

MAX_VALUES: Final = 50_000
"""Values of a request, nested ones included: those of lists and objects count one by one."""

MAX_CHARACTERS: Final = 2**26
"""Characters of all texts of a request together."""

MAX_DEPTH: Final = 100
"""Lists and objects inside one another."""


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


def ensure_lists_bounded(
    model: type[BaseModel], values: Mapping[str, object], sources: Mapping[str, str], known: Iterable[Problem]
) -> None:
    """Checks the lengths of lists before their items are: of a long list of wrong items, each would be an error.

    Args:
        model: The request.
        values: The collected values by field.
        sources: The path of each field, as the caller wrote it.
        known: Problems found so far, which are reported together with these.

    Raises:
        ValidationError: A list has more items than its field allows.
    """
    problems = [
        Problem(sources.get(name, name), show_value(values[name]), _allowed(model, name))
        for name, limit in _list_limits(model, values)
        if len(values[name]) > limit  # type: ignore[arg-type]  # a list
    ]
    if problems:
        raise validation_error([*known, *problems])


def _list_limits(model: type[BaseModel], values: Mapping[str, object]) -> Iterable[tuple[str, int]]:
    for name, value in values.items():
        if isinstance(value, Sequence) and not isinstance(value, str) and name in model.model_fields:
            yield from ((name, each.max_length) for each in model.model_fields[name].metadata if isinstance(each, MaxLen))


def _allowed(model: type[BaseModel], name: str) -> str:
    schema = schema_of(model)
    properties: Mapping[str, Any] = schema["properties"]
    return describe_constraint(properties[model.model_fields[name].alias or name], schema)
