"""From pydantic's errors to sentences for the caller: what is allowed, what was sent, what comes nearest."""

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
from shared.contract.names import looks_like_a_key
from shared.errors import Problem, ValidationError

_MOST = 25
# Short words are shown as they came. Anything longer or less plain may be a prompt, a token or a URL.
_WORD = re.compile(r"[A-Za-z0-9_+.:*-]{1,32}")
# Of these kinds only is a string that was sent shown: a prompt or a reference that is wrong is wrong for other reasons.
_SHOWN = {"literal_error", "int_type", "float_type", "bool_type", "enum"}


def show_value(value: object, *, show_text: bool = True) -> str:
    """What was sent, fit for a message: numbers and short words as they are, everything else by its kind and size."""
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
    """The error that names the problems, or the first of very many and how many more there are.

    Args:
        known: Problems that were found while values were collected.
        more: Problems that were found while values were judged; only as many are made as are named.
        count: How many those are.
        warnings: What was warned about so far.
    """
    named = [*known, *islice(more, max(0, _MOST - len(known)))][:_MOST]
    return ValidationError(named, more=len(known) + count - len(named), warnings=warnings)


def to_problems(model: type[BaseModel], error: PydanticError, sources: Mapping[str, str]) -> Iterator[Problem]:
    """One problem for each of pydantic's errors.

    Args:
        model: The request that did not validate.
        error: What pydantic raised.
        sources: Where each field stands, as the caller wrote it.
    """
    return (_explain(_schema(model), detail, sources) for detail in error.errors(include_url=False))


def _explain(schema: Schema, detail: ErrorDetails, sources: Mapping[str, str]) -> Problem:
    said = detail.get("ctx", {}) if detail["type"] == "refused" else {}
    location, node = _find(schema, (said["field"],) if said.get("field") else detail["loc"])
    # pydantic's input of a missing value is the object that it is missing from.
    value = None if detail["type"] == "missing" else detail["input"]
    near = said.get("nearest") if said else nearest(node, value)
    return Problem(
        _path(location, sources),
        said.get("sent") or show_value(value, show_text=detail["type"] in _SHOWN),
        said.get("allowed") or describe_constraint(node, schema),
        None if near is None else str(near),
    )


def _path(location: Sequence[int | str], sources: Mapping[str, str]) -> str:
    root = str(location[0])
    rest = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location[1:])
    return sources.get(root, root) + rest


@lru_cache(maxsize=16)
def _schema(model: type[BaseModel]) -> Schema:
    return model.model_json_schema(mode="validation")


def _find(schema: Schema, location: Sequence[int | str]) -> tuple[Sequence[int | str], Schema]:
    """Follows a location as far as its names are ours: within something free, such as a JSON Schema, they are the caller's."""
    node = resolve(schema, schema)
    for depth, part in enumerate(location):
        inner = _inside(node, part, schema)
        if inner is None:
            return location[:depth], node
        node = resolve(inner, schema)
    return location, node


def _inside(node: Schema, part: int | str, schema: Schema) -> Schema | None:
    """What stands at an index or under a name, in the alternative that has such."""
    for option in node.get("anyOf", (node,)):
        form = resolve(option, schema)
        inner: Schema | None = form.get("items") if isinstance(part, int) else form.get("properties", {}).get(part)
        if inner is not None:
            return inner
    return None
