"""The response format of a chat request: text, any JSON object, or JSON that conforms to a schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, JsonValue, ValidationInfo, field_validator

from shared.contract.fields import Text, ensure_valid_text
from shared.contract.nested import NestedModel
from shared.contract.rejections import refuse, requires

_MAX_DEPTH = 32
_MAX_VALUES = 5_000


def _limit_size(schema: object) -> object:
    """Rejects a schema that is too deep or too large to be compiled. Iterative, because a deep one would overflow the stack."""
    level: list[object] = [schema]
    count = 0
    for _ in range(_MAX_DEPTH):
        level = [child for value in level for child in _children(value)]
        count += len(level)
        if not level or count > _MAX_VALUES:
            break
    if level:
        raise refuse(f"a JSON Schema of at most {_MAX_DEPTH} levels and {_MAX_VALUES} values")
    return schema


def _children(value: object) -> Iterator[object]:
    if isinstance(value, str):
        ensure_valid_text(value)
    elif isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, list):
        yield from value


class JsonSchemaFormat(NestedModel):
    """The schema that the completion must conform to."""

    location: ClassVar[str] = "response_format.json_schema"

    name: Annotated[Text | None, Field(repr=False, description="Accepted for compatibility. No effect.")] = None
    strict: Annotated[bool | None, Field(description="Accepted for compatibility. No effect: the completion always conforms.")] = None
    definition: Annotated[
        dict[str, JsonValue], BeforeValidator(_limit_size), Field(alias="schema", repr=False, description="A JSON Schema.")
    ]


class ResponseFormat(NestedModel):
    """The form of the completion."""

    location: ClassVar[str] = "response_format"

    type: Annotated[Literal["text", "json_object", "json_schema"], Field(description="The form.")]
    json_schema: Annotated[JsonSchemaFormat | None, Field(validate_default=True, description="With type `json_schema`: the schema.")] = None

    @field_validator("json_schema")
    @classmethod
    def _is_given_with_json_schema(cls, json_schema: JsonSchemaFormat | None, info: ValidationInfo) -> JsonSchemaFormat | None:
        if info.data.get("type") == "json_schema" and json_schema is None:
            raise requires('response_format.type: "json_schema"', "response_format.json_schema")
        return json_schema
