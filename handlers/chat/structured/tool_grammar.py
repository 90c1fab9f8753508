"""The grammar of completions with tool calls. Runs only in the sandbox, as `checks`.

Calls have the format that Qwen's models are trained on, in which the schema of the called function constrains the arguments.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from handlers.chat.structured.checks import check, compile_grammar, conforms
from handlers.chat.tools.parser import FunctionCall, split_calls
from handlers.chat.tools.tags import TAGS_AS_TEXT


def check_tools(value: Mapping[str, Any]) -> dict[str, str]:
    """Checks whether the calls of some functions can be constrained.

    Args:
        value: `functions`, each with `name`, `parameters` and `index` in the request; whether a call is `required`; whether there may be
            several, `parallel`; and the `content` constraint, which applies to a completion without a call.

    Returns:
        `grammar`, or `path` and `reason` if it cannot.
    """
    schemas = []
    for function in value["functions"]:
        result = check("json", function["parameters"])
        if "grammar" not in result:
            path = ".".join(part for part in (f"[{function['index']}].function.parameters", result["path"]) if part)
            return {"path": path, "reason": result["reason"]}
        schemas.append(_schema_of(result["grammar"]))
    content = value["content"]
    content_schema = None if content is None else _schema_of(check("json", content)["grammar"])
    grammar = "\n".join(_rules(value, schemas, content_schema))
    return {"path": "", "reason": reason} if (reason := compile_grammar(grammar)) else {"grammar": grammar}


def _schema_of(grammar: str) -> str:
    """Returns the schema in a grammar of llguidance, with its options."""
    (part,) = json.loads(grammar)["grammars"]
    return json.dumps(part["json_schema"])


def _rules(value: Mapping[str, Any], schemas: Sequence[str], content: str | None) -> Iterator[str]:
    more = ' ("\\n" begin call)*' if value["parallel"] else ""
    start = "calls" if value["required"] else "text | opened call" + more if content is None else "content | calls"
    yield "%llguidance {}"
    yield f"start: {start}"
    yield f"calls: begin call{more}"
    yield 'call: "\\n{\\"name\\": \\"" function "}\\n" end'
    yield "function: " + " | ".join(f"function_{index}" for index in range(len(schemas)))
    for index, (function, schema) in enumerate(zip(value["functions"], schemas, strict=True)):
        yield f'function_{index}: "{function["name"]}\\", \\"arguments\\": " arguments_{index}'
        yield f"arguments_{index}: %json {schema}"
    if content is not None:
        yield f"content: %json {content}"
    yield "text: TEXT"
    yield r"TEXT: /(.|\n)*/"
    yield TAGS_AS_TEXT


def conforms_to_tools(value: Mapping[str, Any], text: str) -> bool:
    """Returns whether all calls of a completion have valid arguments, and whether it has a call if one is required."""
    parameters = {function["name"]: function["parameters"] for function in value["functions"]}
    found = split_calls(text, parameters, final=True)
    if not found.calls and not value["required"]:
        return value["content"] is None or conforms("json", value["content"], text)
    return bool(found.calls) and all(_is_valid(call, parameters[call.name]) for call in found.calls)


def _is_valid(call: FunctionCall, parameters: Any) -> bool:
    return conforms("json", parameters, json.dumps(call.arguments))
