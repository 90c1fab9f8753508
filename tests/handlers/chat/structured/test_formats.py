"""Response formats: schemas as zod and pydantic write them are followed; what cannot be followed is named; all work is bounded."""

from __future__ import annotations

import multiprocessing
import resource
from pathlib import Path
from typing import Any

import pytest

from handlers.chat.response_format import Constraint
from handlers.chat.structured.formats import ensure_conforms, grammar_of
from handlers.chat.structured.sandbox import LimitExceeded, Sandbox
from handlers.chat.structured.sandbox_process import set_limits
from shared.errors import GenerationError, ValidationError

STRING = {"type": "string"}


def response_format(schema: object) -> Constraint:
    return Constraint("json", schema, "response_format.json_schema.schema")


def doubling(levels: int) -> dict[str, Any]:
    """A schema of a few kilobytes that expands to 2^levels schemas."""
    definitions: dict[str, Any] = {f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{levels}": STRING}}


FOLLOWED: dict[str, dict[str, Any]] = {
    "a record": {"type": "object", "propertyNames": STRING, "additionalProperties": {"type": "number"}},
    "a record of an enumeration": {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": STRING},
    "an unknown format": {"type": "string", "format": "cuid"},
    "a set": {"type": "array", "items": STRING, "uniqueItems": True},
    "an exclusion": {"type": "string", "not": {"const": "a"}},
    "a condition": {"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}},
    "a lookahead": {"type": "string", "pattern": "^(?=a)ab$"},
    "a Unicode property": {"type": "string", "pattern": "^\\p{L}+$"},
    "overlapping alternatives": {"oneOf": [STRING, {"type": "string", "maxLength": 2}]},
    "a recursive schema": {"type": "object", "properties": {"next": {"$ref": "#"}}},
    "a tuple of draft 7": {"type": "array", "items": [STRING], "additionalItems": False},
    "a bound of draft 4": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
}


@pytest.mark.parametrize("kind", sorted(FOLLOWED))
def test_schemas_of_schema_libraries_are_followed(kind: str) -> None:
    assert grammar_of(response_format(FOLLOWED[kind]))


@pytest.mark.parametrize(
    ("schema", "place", "reason"),
    [
        ({"properties": {"a": {"properties": {"b": {"pattern": "("}}}}}, "schema.properties.a.properties.b.pattern", "not a regular"),
        ({"properties": {"a": {"type": "nonsense"}}}, "schema.properties.a.type", "nonsense"),
        ({"anyOf": [STRING, {"$ref": "#/nowhere"}]}, "schema.anyOf[1].$ref", "must point to a place in this schema"),
        ({"$ref": "https://example.com/schema"}, "schema.$ref", "must point to a place in this schema"),
        ({"properties": {"a": {"not": {}}}}, "schema.properties.a.not", "nothing can satisfy it"),
        ({"properties": {"a": {"$dynamicRef": "#x"}}}, "schema.properties.a.$dynamicRef", "dynamic references"),
        ({"type": "object", "properties": {"a": {"enum": []}}, "required": ["a"]}, "schema.properties.a", "Unsatisfiable"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_named_with_its_place_and_reason(schema: object, place: str, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        grammar_of(response_format(schema))
    assert caught.value.problems[0].field == f"response_format.json_schema.{place}"
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        (doubling(41), "schema.$defs"),
        ({"properties": {"n": {"type": "integer", "multipleOf": 10_000_019}}}, "schema.properties.n"),
        ({"properties": {"n": {"allOf": [{"multipleOf": 9_973}, {"multipleOf": 9_967}]}}}, "schema.properties.n"),
        ({"properties": {"p": {"allOf": [{"type": "string", "pattern": f".*a.{{{n}}}a.*"} for n in range(20)]}}}, "schema.properties.p"),
        ({"properties": {"p": {"allOf": [{"type": "string", "pattern": f".*a.{{{n}}}a.*"} for n in range(9, 17)]}}}, "schema.properties.p"),
    ],
)
def test_a_schema_that_would_take_too_long_is_rejected_with_its_place(schema: object, place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        grammar_of(response_format(schema))
    assert caught.value.problems[0].field.startswith(f"response_format.json_schema.{place}")


@pytest.mark.parametrize(
    ("schema", "text", "conforms"),
    [
        (STRING, '"a"', True),
        (STRING, '"a', False),
        (FOLLOWED["a set"], '["a", "b"]', True),
        (FOLLOWED["a set"], '["a", "a"]', False),
        (FOLLOWED["an exclusion"], '"a"', False),
        (FOLLOWED["a condition"], '{"a": 1}', False),
        (FOLLOWED["a lookahead"], '"ab"', True),
        (FOLLOWED["a Unicode property"], '"é"', True),
        (FOLLOWED["overlapping alternatives"], '"a"', False),
        ({"type": "string", "pattern": "^(a|a)+$"}, '"' + "a" * 40 + 'b"', False),
    ],
)
def test_a_completion_is_validated_against_its_schema(schema: object, text: str, conforms: bool) -> None:
    if conforms:
        ensure_conforms(response_format(schema), text)
    else:
        with pytest.raises(GenerationError, match="does not conform"):
            ensure_conforms(response_format(schema), text)


def test_the_sandbox_has_no_secrets_and_is_restarted_when_it_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_CALLBACK_SECRET", "a-secret-of-the-worker")
    sandbox = Sandbox()
    try:
        assert sandbox.run("conforms", kind="json", value=True, text="1") is True
        process = sandbox._process
        assert process is not None
        assert b"a-secret-of-the-worker" not in Path(f"/proc/{process.pid}/environ").read_bytes()
        process.kill()
        process.wait()
        assert sandbox.run("conforms", kind="json", value=True, text="1") is True
    finally:
        sandbox.close()


def limits_of_a_task() -> tuple[int, int]:
    set_limits()
    with open("/proc/self/statm", encoding="ascii") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    return resource.getrlimit(resource.RLIMIT_CPU)[0], resource.getrlimit(resource.RLIMIT_AS)[0] - used


def test_a_task_has_2_seconds_of_processor_time_and_512_megabytes() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, memory = pool.apply(limits_of_a_task)
    assert seconds == 2
    assert 0 < memory <= 512 * 2**20


def test_a_task_cannot_exceed_its_limits() -> None:
    sandbox, pattern = Sandbox(), "(a{1000}){1000}(b{1000}){1000}"
    try:
        with pytest.raises(LimitExceeded):
            sandbox.run("conforms", kind="regex", value=pattern, text="a" * 10_000_000)
    finally:
        sandbox.close()


@pytest.mark.parametrize(
    ("constraint", "fits", "does_not"),
    [
        (Constraint("choice", ("yes", 'no "way"\n', "é|."), "guided_choice"), 'no "way"\n', "maybe"),
        (Constraint("regex", r"^\d{3}-[a-z]+$", "guided_regex"), "123-ab", "123-"),
        (Constraint("regex", r"a|bc", "guided_regex"), "bc", "abc"),
    ],
)
def test_choices_and_regular_expressions_are_followed(constraint: Constraint, fits: str, does_not: str) -> None:
    assert grammar_of(constraint)
    ensure_conforms(constraint, fits)
    with pytest.raises(GenerationError, match=f"`{constraint.field}`"):
        ensure_conforms(constraint, does_not)


@pytest.mark.parametrize("pattern", ["(", "(?=a)b", "(a{1000}){1000}(b{1000}){1000}"])
def test_a_regular_expression_that_cannot_be_followed_is_rejected(pattern: str) -> None:
    with pytest.raises(ValidationError, match="`guided_regex` must be a regular expression"):
        grammar_of(Constraint("regex", pattern, "guided_regex"))
