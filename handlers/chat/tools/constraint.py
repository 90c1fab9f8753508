"""The constraint of a completion that may call tools."""

from __future__ import annotations

from collections.abc import Sequence

from handlers.chat.response_format import Constraint
from handlers.chat.tools.fields import Tool, ToolChoice

_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


def tools_constraint(tools: Sequence[Tool], choice: ToolChoice, content: Constraint | None, *, parallel: bool) -> Constraint:
    """Returns what a completion must conform to: each call to the schema of its function, and the rest to the constraint of the content.

    Args:
        tools: At least one.
        choice: Whether one must be called.
        content: A JSON constraint, which applies to a completion without a call.
        parallel: Whether there may be several calls.
    """
    only = choice.function.name if choice.type == "function" and choice.function is not None else None
    functions = [
        {"name": tool.function.name, "parameters": tool.function.parameters or _NO_ARGUMENTS, "index": index}
        for index, tool in enumerate(tools)
        if only in (None, tool.function.name)
    ]
    required = choice.type in ("required", "function")
    value = {
        "functions": functions,
        "required": required,
        "parallel": parallel and only is None,
        "content": None if content is None or required else content.value,
    }
    return Constraint("tools", value, "tools")
