"""Schemas as zod, pydantic and people write them: a JSON text that fits, or an error; never other text, and never a long wait."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

from tests.handlers.reported.jobs import JobRunner, Result, reported

SECONDS = 60.0
"""Generous: compiling is limited to 2 s of processor time, and the machine may be busy. Without a limit, these take hours."""


def job(schema: object, *, seed: int = 1, **fields: Any) -> dict[str, Any]:
    """A hot request for a JSON text by this schema."""
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    return {"prompt": "JSON please", "max_tokens": 60, "temperature": 1.0, "seed": seed, "response_format": response_format, **fields}


def ensure_followed(result: Result, schema: Any) -> None:
    """Checks that a job gave a text that fits, was cut by `max_tokens`, or failed as a generation."""
    if result.response["status"] == "failed":
        assert result.error[0] == "GENERATION_ERROR", result.error
        return
    if result.response["assets"][0]["metadata"]["finish_reason"] == "length":
        return
    value = json.loads(result.text)
    if not _contains(schema, "\\p{"):  # this validator knows no Unicode properties
        Draft202012Validator(schema).validate(value)


def _contains(schema: object, text: str) -> bool:
    return text in json.dumps(schema).replace("\\\\", "\\")


@pytest.mark.parametrize("seed", range(6))
def test_the_reported_unicode_pattern_gives_a_json_text_or_an_error(chat_jobs: JobRunner, seed: int) -> None:
    reported_job: dict[str, Any] = reported("json_schema_unicode_pattern.json")
    result = chat_jobs.run(reported_job | {"seed": seed})
    ensure_followed(result, reported_job["response_format"]["json_schema"]["schema"])


def alternatives(count: int, length: int) -> dict[str, Any]:
    """Patterns that together have a large automaton."""
    patterns = [f".*{chr(97 + index % 26)}.{{{index}}}{chr(97 + index % 26)}.{{{length}}}" for index in range(count)]
    return {"type": "object", "properties": {"p": {"allOf": [{"type": "string", "pattern": pattern} for pattern in patterns]}}}


SLOW: Mapping[str, dict[str, Any]] = {
    "the reported patterns": reported("json_schema_slow_allof_patterns.json")["input"],
    "patterns of another form": job(alternatives(26, 3)),
    "one repeated group": job({"type": "string", "pattern": "((a{1,200}b{1,200}){1,200}c){1,200}"}),
    "a large multiple": job({"type": "object", "properties": {"n": {"type": "integer", "multipleOf": 10_000_019}}, "required": ["n"]}),
    "definitions that double": job(
        {"$ref": "#/$defs/d0", "$defs": {**{f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}, "d40": {}}}
    ),
    "properties that need each other": job(
        {"allOf": [{"type": "object", "properties": {f"p{n}": {"pattern": f"(.*{n}){{{n}}}.*"}}} for n in range(60)]}
    ),
}


@pytest.mark.parametrize("kind", SLOW)
def test_a_schema_that_takes_long_to_compile_is_refused_in_time(chat_jobs: JobRunner, kind: str) -> None:
    began = time.monotonic()
    result = chat_jobs.run(SLOW[kind])
    assert time.monotonic() - began < SECONDS
    if kind == "the reported patterns" or result.response["status"] == "failed":
        assert result.error[0] in ("VALIDATION_ERROR", "GENERATION_ERROR")


def test_a_refused_schema_does_not_delay_the_next_job(chat_jobs: JobRunner) -> None:
    assert chat_jobs.run(SLOW["the reported patterns"]).error[0] == "VALIDATION_ERROR"
    assert chat_jobs.run({"prompt": "hi", "max_tokens": 4}).response["status"] == "completed"


@pytest.mark.parametrize("schema", reported("zod_formats.json")["schemas"], ids=lambda schema: schema["format"])
def test_an_unknown_format_is_an_annotation(chat_jobs: JobRunner, schema: dict[str, Any]) -> None:
    whole = {"type": "object", "properties": {"v": schema}, "required": ["v"], "additionalProperties": False}
    ensure_followed(chat_jobs.run(job(whole)), whole)
    ensure_followed(chat_jobs.run(job(schema)), schema)


def test_the_reported_record_is_followed(chat_jobs: JobRunner) -> None:
    reported_job = reported("zod_record_schema.json")
    assert chat_jobs.run(reported_job).text.startswith("{")
    schema = reported_job["response_format"]["json_schema"]["schema"]
    ensure_followed(chat_jobs.run(reported_job | {"max_tokens": 80}), schema)


class Node(BaseModel):
    """A recursive model."""

    name: str = Field(pattern=r"^[a-z]{1,8}$")
    children: list[Node] = []


class Order(BaseModel):
    """A model with most of what pydantic writes into a schema."""

    id: int = Field(ge=1, lt=1000)
    price: float = Field(gt=0)
    tags: set[str] = Field(max_length=3)
    pair: tuple[int, str]
    by_name: dict[str, int]
    note: str | None = None


SCHEMAS: Mapping[str, dict[str, Any]] = {
    "pydantic, recursive": Node.model_json_schema(),
    "pydantic, everything": Order.model_json_schema(),
    "a reference to the whole": {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
    },
    "a discriminated union": {
        "anyOf": [
            {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"], "additionalProperties": False}
            for kind in ("cat", "dog")
        ]
    },
    "a Unicode class": {"type": "string", "pattern": r"^\p{Lu}\p{Ll}{1,5}$"},
    "a class of a script": {"type": "string", "pattern": r"^\p{Script=Greek}{1,5}$"},
    "a class of words": {"type": "string", "pattern": r"^\w{1,5}\s\d$"},
    "a lookahead": {"type": "string", "pattern": r"^(?=.*\d)[a-z\d]{1,6}$"},
    "a negative lookahead": {"type": "string", "pattern": r"^(?!admin)[a-z]{1,6}$"},
    "a lazy quantifier": {"type": "string", "pattern": r"^a+?b*?$"},
    "an enumeration of values of all types": {"enum": [1, "a", None, True, {"b": [2]}]},
    "a nullable type list": {"type": ["string", "null"], "maxLength": 3},
    "an exact length": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 2, "maxItems": 2},
    "a record of an enumeration": {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "number"}},
    "a date": {"type": "string", "format": "date-time"},
    "only annotations": {"title": "T", "description": "D", "examples": [1], "default": 2, "type": "integer", "minimum": 0, "maximum": 9},
}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_schema_gives_a_json_text_that_fits_or_an_error_with_its_place(chat_jobs: JobRunner, kind: str) -> None:
    result = chat_jobs.run(job(SCHEMAS[kind]))
    if result.response["status"] == "failed" and result.error[0] == "VALIDATION_ERROR":
        assert "response_format.json_schema.schema" in result.error[1]
        assert kind in ("a class of a script", "a lazy quantifier"), result.error[1]
    else:
        ensure_followed(result, SCHEMAS[kind])
