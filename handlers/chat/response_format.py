"""What a completion must conform to: OpenAI's `response_format`, and vLLM's `guided_*` and `structured_outputs` for the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, ValidationInfo, model_validator

from shared.contract.fields import Text, ensure_valid_text
from shared.contract.nested import NestedModel
from shared.contract.rejections import refuse, requires

_MAX_DEPTH = 32
_MAX_VALUES = 5_000
_MAX_CHOICES = 500

T = TypeVar("T")


def limit_size(value: object, what: str = "a JSON Schema") -> object:
    """Returns a JSON value if it is neither too deep nor too large. Iterative, because a deep one would overflow the stack.

    Args:
        value: The value.
        what: What it should be.

    Raises:
        PydanticCustomError: It is too deep or too large.
    """
    level: list[object] = [value]
    count = 0
    for _ in range(_MAX_DEPTH):
        level = [child for each in level for child in _children(each)]
        count += len(level)
        if not level or count > _MAX_VALUES:
            break
    if level:
        raise refuse(f"{what} of at most {_MAX_DEPTH} levels and {_MAX_VALUES} values")
    return value


def _children(value: object) -> Iterator[object]:
    if isinstance(value, str):
        ensure_valid_text(value)
    elif isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def required_by_type(kind: str, location: str) -> AfterValidator:
    """Validates that a member is given if the `type` of its object is `kind`. `location` is the path of the object."""

    def ensure_given(value: T, info: ValidationInfo) -> T:
        if value is None and info.data.get("type") == kind:
            raise requires(f'{location}.type: "{kind}"', f"{location}.{info.field_name}")
        return value

    return AfterValidator(ensure_given)


JsonSchema = Annotated[dict[str, JsonValue], BeforeValidator(lambda schema: limit_size(schema))]
"""A JSON Schema of limited size."""

_Choice = Annotated[Text, Field(min_length=1, max_length=1000)]
Choices = Annotated[tuple[_Choice, ...], Field(strict=False, min_length=1, max_length=_MAX_CHOICES)]
"""The texts that a completion may be."""

Pattern = Annotated[Text, Field(min_length=1, max_length=4000)]
"""A regular expression."""


@dataclass(frozen=True)
class Constraint:
    """What a completion must conform to.

    Attributes:
        kind: Whether the value is a JSON Schema, a list of texts, a regular expression, or the functions of tools.
        value: It; for tools, the argument of `tool_grammar.check_tools`.
        field: The field that it stands in.
    """

    kind: Literal["json", "choice", "regex", "tools"]
    value: Any = dataclasses.field(repr=False)
    field: str


class JsonSchemaFormat(NestedModel):
    """The schema that the completion must conform to."""

    location: ClassVar[str] = "response_format.json_schema"

    name: Annotated[Text | None, Field(repr=False, description="Accepted for compatibility. No effect.")] = None
    strict: Annotated[bool | None, Field(description="Accepted for compatibility. No effect: the completion always conforms.")] = None
    description: Annotated[Text | None, Field(repr=False, description="Accepted for compatibility. No effect.")] = None
    definition: Annotated[JsonSchema, Field(alias="schema", repr=False, description="A JSON Schema.")]


class ResponseFormat(NestedModel):
    """The form of the completion."""

    location: ClassVar[str] = "response_format"

    type: Annotated[Literal["text", "json_object", "json_schema"], Field(description="The form.")]
    json_schema: Annotated[
        JsonSchemaFormat | None,
        required_by_type("json_schema", "response_format"),
        Field(validate_default=True, description="With type `json_schema`: the schema."),
    ] = None

    @property
    def constraint(self) -> Constraint | None:
        """What the completion must conform to; None for text."""
        if self.json_schema is not None and self.type == "json_schema":
            return Constraint("json", self.json_schema.definition, "response_format.json_schema.schema")
        return Constraint("json", {"type": "object"}, "response_format") if self.type == "json_object" else None


class StructuredOutputs(NestedModel):
    """vLLM's name for what a completion must conform to: one of the members."""

    location: ClassVar[str] = "structured_outputs"

    schema_: Annotated[JsonSchema | None, Field(alias="json", repr=False, description="A JSON Schema.")] = None
    json_object: Annotated[bool | None, Field(description="Any JSON object.")] = None
    choice: Annotated[Choices | None, Field(repr=False, description="The texts that the completion may be.")] = None
    regex: Annotated[Pattern | None, Field(repr=False, description="A regular expression for the whole completion.")] = None

    @model_validator(mode="before")
    @classmethod
    def _has_only_what_is_followed(cls, value: object) -> object:
        named = [name for name in ("grammar", "structural_tag") if isinstance(value, dict) and value.get(name) is not None]
        if named:
            raise refuse("an object with json, json_object, choice or regex", sent=f"an object with {named[0]}")
        return value

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """The members that are given."""
        given = (
            Constraint("json", self.schema_, "structured_outputs.json") if self.schema_ is not None else None,
            Constraint("json", {"type": "object"}, "structured_outputs.json_object") if self.json_object else None,
            Constraint("choice", self.choice, "structured_outputs.choice") if self.choice is not None else None,
            Constraint("regex", self.regex, "structured_outputs.regex") if self.regex is not None else None,
        )
        return tuple(constraint for constraint in given if constraint is not None)
