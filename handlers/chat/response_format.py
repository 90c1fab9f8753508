"""In which form a chat answers: text, any JSON, or JSON of a given schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, JsonValue, ValidationInfo, field_validator

from shared.contract.field_location import refuse
from shared.contract.fields import Text, ensure_valid_text
from shared.contract.nested import NestedModel

_DEEPEST = 32
_MOST_VALUES = 5_000


def _ensure_modest(schema: object) -> object:
    """Refuses what is too deep or too large to be compiled, before anything recurses into it."""
    level: list[object] = [schema]
    count = 0
    for _ in range(_DEEPEST):
        level = [inner for value in level for inner in _inside(value)]
        count += len(level)
        if not level or count > _MOST_VALUES:
            break
    if level:
        raise refuse(f"a JSON Schema of at most {_DEEPEST} levels and {_MOST_VALUES} values")
    return schema


def _inside(value: object) -> Iterator[object]:
    if isinstance(value, str):
        ensure_valid_text(value)
    elif isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, list):
        yield from value


class JsonSchemaFormat(NestedModel):
    """The schema that the answer has to fit."""

    location: ClassVar[str] = "response_format.json_schema"

    name: Annotated[Text | None, Field(repr=False, description="Accepted for other clients' sake; means nothing here.")] = None
    strict: Annotated[bool | None, Field(description="Accepted for other clients' sake; the answer always fits.")] = None
    definition: Annotated[
        dict[str, JsonValue], BeforeValidator(_ensure_modest), Field(alias="schema", repr=False, description="A JSON Schema.")
    ]


class ResponseFormat(NestedModel):
    """The form of the answer."""

    location: ClassVar[str] = "response_format"

    type: Annotated[Literal["text", "json_object", "json_schema"], Field(description="Which form.")]
    json_schema: Annotated[JsonSchemaFormat | None, Field(validate_default=True, description="With type `json_schema`: the schema.")] = None

    @field_validator("json_schema")
    @classmethod
    def _goes_with_the_type(cls, json_schema: JsonSchemaFormat | None, info: ValidationInfo) -> JsonSchemaFormat | None:
        if info.data.get("type") == "json_schema" and json_schema is None:
            raise refuse('given with type "json_schema": an object with the field schema')
        return json_schema
