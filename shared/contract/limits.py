"""Limits on the lengths of lists, checked before any of their items is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from annotated_types import MaxLen
from pydantic import BaseModel

from shared.contract.constraints import describe_constraint
from shared.contract.problems import schema_of, show_value, validation_error
from shared.errors import Problem


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
