"""Compiles response formats to grammars, and checks finished completions against them."""

from __future__ import annotations

import json
import threading

from cachetools import LRUCache

from handlers.chat.response_format import ResponseFormat
from handlers.chat.structured.bounds import most_complex
from handlers.chat.structured.sandbox import LimitExceeded, sandbox
from handlers.chat.structured.walk import show
from shared.errors import GenerationError, Problem, ValidationError

_FIELD = "response_format.json_schema.schema"
_ALLOWED = "a JSON Schema that constrained decoding supports"
_MAX_CACHED = 256

_results: LRUCache[str, dict[str, str]] = LRUCache(_MAX_CACHED)
_lock = threading.Lock()


def grammar_of(form: ResponseFormat) -> str | None:
    """Returns the grammar of a response format, in llguidance's notation; None for plain text. Results are cached.

    Raises:
        ValidationError: The schema cannot be followed; the message names the place and the reason.
    """
    if (schema := schema_of(form)) is None:
        return None
    key = json.dumps(schema)
    with _lock:
        result = _results.get(key)
    if result is None:
        result = _check(schema)
        with _lock:
            _results[key] = result
    if "grammar" not in result:
        field = ".".join(part for part in (_FIELD, result["path"]) if part)
        raise ValidationError([Problem(field, f"an unsupported schema ({result['reason']})", _ALLOWED)])
    return result["grammar"]


def ensure_conforms(form: ResponseFormat, text: str) -> None:
    """Checks a completion that has ended by itself.

    Raises:
        GenerationError: It does not conform to its schema.
    """
    if (schema := schema_of(form)) is None:
        return
    try:
        conforms = bool(sandbox().run("conforms", schema=schema, text=text))
    except LimitExceeded:
        conforms = False
    if not conforms:
        raise GenerationError("The completion does not conform to `response_format`. Send the job again.")


def schema_of(form: ResponseFormat) -> object | None:
    """Returns the JSON Schema of a response format; None for plain text."""
    if form.type == "text":
        return None
    return {"type": "object"} if form.json_schema is None else form.json_schema.definition


def _check(schema: object) -> dict[str, str]:
    try:
        result: dict[str, str] = sandbox().run("check", schema=schema)
    except LimitExceeded:
        return {"path": show(most_complex(schema)), "reason": "it is too complex to compile"}
    return result
