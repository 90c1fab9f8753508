"""Checks schemas and completions. Runs only in the sandbox, because both can take arbitrarily long."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import regex
from jsonschema import Draft4Validator, Draft7Validator, Draft202012Validator, FormatChecker, ValidationError
from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from llguidance import LLMatcher, LLTokenizer

from handlers.chat.structured.bounds import exceeded_bounds
from handlers.chat.structured.dialect import to_grammar_schema
from handlers.chat.structured.walk import Path, show, subschemas, target

OPTIONS: Any = {"whitespace_pattern": r"[ \t\n\r]{0,20}", "coerce_one_of": True}
"""Options of llguidance. Without a limit on whitespace a model may generate nothing else until `max_tokens`. Several alternatives of
`oneOf` may match; the finished completion is checked for that."""

_MAX_REASON_LENGTH = 200  # characters
_PROBE_STEPS = 3
_DYNAMIC = ("$dynamicRef", "$recursiveRef")

# Patterns are ECMAScript's, not Python's, and checked here.
_NO_FORMATS = FormatChecker(formats=())
_TOKENIZER = LLTokenizer("byte")


def check(kind: str, value: Any) -> dict[str, str]:
    """Checks whether a constraint can be followed: a JSON Schema, a choice of texts or a regular expression.

    Returns:
        `grammar`, or `path` and `reason` if it cannot.
    """
    if kind == "json":
        return _check_schema(value)
    if kind == "choice":
        grammar = f"start: {' | '.join(json.dumps(text, ensure_ascii=False) for text in value)}"
    else:
        grammar = str(LLMatcher.grammar_from_regex(_without_anchors(value)))
    reason = compile_grammar(grammar) or ("" if kind == "choice" else _regex_error(value))
    return {"path": "", "reason": reason} if reason else {"grammar": grammar}


def _without_anchors(pattern: str) -> str:
    """The whole text must match anyway, and llguidance knows no anchors there."""
    start = pattern.removeprefix("^")
    return start[:-1] if start.endswith("$") and not start.endswith("\\$") else start


def _check_schema(schema: Any) -> dict[str, str]:
    found = _validity(schema) or exceeded_bounds(schema) or _reference_problem(schema) or _pattern_problem(schema)
    if found is not None:
        return {"path": show(found[0]), "reason": found[1][:_MAX_REASON_LENGTH]}
    translated = to_grammar_schema(schema, frozenset(pattern for _, pattern in _patterns(schema) if not _error({"pattern": pattern})))
    if isinstance(translated, bool):
        translated = {} if translated else {"enum": []}
    reason = _error(translated)
    if reason:
        return {"path": show(_innermost_failure(translated)), "reason": reason}
    return {"grammar": _grammar(translated)}


def conforms(kind: str, value: Any, text: str) -> bool:
    """Returns whether a text conforms to a constraint. In JSON Schemas `format` is an annotation."""
    if kind == "choice":
        return text in value
    if kind == "regex":
        return regex.fullmatch(value, text) is not None
    try:
        parsed = json.loads(text)
    except ValueError:
        return False
    return next(_validator(value).iter_errors(parsed), None) is None


def _grammar(schema: dict[str, Any]) -> str:
    return str(LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=OPTIONS))


def _error(schema: dict[str, Any]) -> str:
    return compile_grammar(_grammar(schema))


def compile_grammar(grammar: str) -> str:
    """Compiles and uses a grammar; returns the first line of the error, or an empty string."""
    matcher = LLMatcher(_TOKENIZER, grammar, log_level=0)
    for _ in range(_PROBE_STEPS):
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        if matcher.is_error() or matcher.is_stopped() or not mask:
            break
        matcher.consume_token((mask & -mask).bit_length() - 1)
    if not matcher.is_error():
        return ""
    return (str(matcher.get_error()).strip().splitlines() or ["not supported"])[0][:_MAX_REASON_LENGTH]


def _validity(schema: Any) -> tuple[Path, str] | None:
    """Returns where a schema violates its own specification. Without `$schema`, older drafts are tried, too."""
    problem: tuple[Path, str] | None = None
    for draft in _drafts(schema):
        try:
            draft.check_schema(schema, format_checker=_NO_FORMATS)
        except SchemaError as error:
            problem = problem or (tuple(error.absolute_path), error.message)
        else:
            return None
    return problem


def _drafts(schema: Any) -> list[Any]:
    if isinstance(schema, dict) and "$schema" in schema:
        return [validator_for(schema, default=Draft202012Validator)]
    return [Draft202012Validator, Draft7Validator, Draft4Validator]


def _validator(schema: Any) -> Validator:
    draft = next((draft for draft in _drafts(schema) if _accepts(draft, schema)), Draft202012Validator)
    # As ECMAScript's regular expressions, these know Unicode properties, which the `re` module does not.
    validator: Validator = extend(draft, {"pattern": _check_pattern})(schema)  # type: ignore[no-untyped-call]
    return validator


def _accepts(draft: Any, schema: Any) -> bool:
    try:
        draft.check_schema(schema, format_checker=_NO_FORMATS)
    except SchemaError:
        return False
    return True


def _check_pattern(_validator: object, pattern: str, instance: object, _schema: object) -> Iterator[ValidationError]:
    if isinstance(instance, str) and regex.search(pattern, instance) is None:
        yield ValidationError("does not match the pattern")


def _patterns(schema: Any) -> Iterator[tuple[Path, str]]:
    for path, node in subschemas(schema):
        if isinstance(node.get("pattern"), str):
            yield (*path, "pattern"), node["pattern"]
        names = node.get("propertyNames")
        if isinstance(node.get("patternProperties"), dict):
            yield from (((*path, "patternProperties", name), name) for name in node["patternProperties"])
        if isinstance(names, dict) and isinstance(names.get("pattern"), str):
            yield (*path, "propertyNames", "pattern"), names["pattern"]


def _regex_error(pattern: str) -> str:
    try:
        regex.compile(pattern)
    except regex.error as error:
        return f"not a regular expression: {error}"
    return ""


def _pattern_problem(schema: Any) -> tuple[Path, str] | None:
    for path, pattern in _patterns(schema):
        if invalid := _regex_error(pattern):
            return path, invalid
        is_key = "patternProperties" in path[-2:] or "propertyNames" in path[-2:]
        if is_key and (reason := _error({"type": "string", "pattern": pattern})):
            return path, reason
    return None


def _reference_problem(schema: Any) -> tuple[Path, str] | None:
    for path, node in subschemas(schema):
        for key in _DYNAMIC:
            if key in node:
                return (*path, key), "dynamic references are not supported"
        if "$ref" in node:
            try:
                target(schema, node["$ref"])
            except (LookupError, TypeError):
                return (*path, "$ref"), "it must point to a place in this schema, such as #/$defs/name"
        if node.get("not") in ({}, True):
            return (*path, "not"), "nothing can satisfy it"
    return None


def _innermost_failure(schema: dict[str, Any]) -> Path:
    """Returns the path of the first subschema that fails by itself, innermost first."""
    definitions: dict[str, Any] = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    return next((path for path, node in subschemas(schema) if _error({**definitions, **node})), ())
