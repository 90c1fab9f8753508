"""The definitions of tools and the choice among them, as OpenAI's API has them.

OpenAI's API reference, "Function calling": https://platform.openai.com/docs/guides/function-calling
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from handlers.chat.response_format import JsonSchema, required_by_type
from shared.contract.field_location import FieldLocation
from shared.contract.fields import Text
from shared.contract.nested import NestedModel
from shared.contract.rejections import refuse, requires

_CHOICES = ("none", "auto", "required")
_MAX_TOOLS = 128

FunctionName = Annotated[
    str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$", json_schema_extra={"allowed": "1 to 64 of the characters a–z, A–Z, 0–9, _ and -"})
]
"""The name of a function. It becomes part of a grammar."""


class FunctionDefinition(NestedModel):
    """A function that the model may call."""

    location: ClassVar[str] = "tools[].function"

    name: Annotated[FunctionName, Field(description="Its name.")]
    description: Annotated[Text | None, Field(repr=False, description="What it does, for the model.")] = None
    parameters: Annotated[JsonSchema | None, Field(repr=False, description="A JSON Schema of its arguments. Default: no arguments.")] = None
    strict: Annotated[bool | None, Field(description="Accepted for compatibility. No effect: arguments always conform.")] = None

    def to_template(self) -> dict[str, Any]:
        """Returns the function as chat templates expect it."""
        given = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {name: value for name, value in given.items() if value is not None}


class Tool(NestedModel):
    """A tool that the model may call."""

    location: ClassVar[str] = "tools[]"

    type: Annotated[Literal["function"], Field(description="The kind of tool.")]
    function: Annotated[FunctionDefinition, Field(description="The function.")]


class NamedFunction(NestedModel):
    """The function to call."""

    location: ClassVar[str] = "tool_choice.function"

    name: Annotated[FunctionName, Field(description="One of the names in `tools`.")]


class ToolChoice(NestedModel):
    """Whether the model may or must call a tool, or which one."""

    location: ClassVar[str] = "tool_choice"

    type: Annotated[Literal["none", "auto", "required", "function"], Field(description="The kind of choice.")]
    function: Annotated[
        NamedFunction | None,
        required_by_type("function", "tool_choice"),
        Field(validate_default=True, description="With `function`: the function to call."),
    ] = None


def _as_object(choice: object) -> object:
    if not isinstance(choice, str):
        return choice
    if choice not in _CHOICES:
        raise refuse('"none", "auto", "required" or {"type": "function", "function": {"name": …}}')
    return {"type": choice}


Tools = Annotated[
    tuple[Tool, ...],
    FieldLocation("tools"),
    Field(strict=False, max_length=_MAX_TOOLS, description="The tools that the model may call. They require a template that knows tools."),
]
Choice = Annotated[
    ToolChoice,
    BeforeValidator(_as_object, json_schema_input_type=Literal["none", "auto", "required"] | ToolChoice),
    FieldLocation("tool_choice"),
    Field(description="`auto`: the model decides; `required`: it calls at least one tool; or the one tool that it calls."),
]
ParallelToolCalls = Annotated[
    bool, FieldLocation("parallel_tool_calls"), Field(description="Whether a completion may call several tools, or one several times.")
]


def ensure_listed(choice: ToolChoice, tools: tuple[Tool, ...]) -> None:
    """Checks that a choice can be followed with these tools.

    Raises:
        PydanticCustomError: There are no tools, or none of the chosen name.
    """
    names = [tool.function.name for tool in tools]
    if choice.type in ("required", "function") and not tools:
        raise requires("tool_choice", "tools")
    if choice.function is not None and choice.type == "function" and choice.function.name not in names:
        raise refuse(f"a function of `tools`: {', '.join(names)}", sent="the name of another function")


def ensure_distinct(tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
    """Returns the tools if their names differ.

    Raises:
        PydanticCustomError: Two have the same name.
    """
    names = [tool.function.name for tool in tools]
    if len(set(names)) < len(names):
        raise refuse("a list of functions with different names", sent="two functions of the same name")
    return tools
