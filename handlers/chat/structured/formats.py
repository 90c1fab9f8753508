"""Compiles the constraints of completions to grammars, and checks finished completions against them."""

from __future__ import annotations

import json
import threading

from cachetools import LRUCache

from handlers.chat.response_format import Constraint
from handlers.chat.structured.bounds import most_complex
from handlers.chat.structured.sandbox import LimitExceeded, sandbox
from handlers.chat.structured.walk import show
from shared.errors import GenerationError, Problem, ValidationError

_ALLOWED = {
    "json": "a JSON Schema that constrained decoding supports",
    "choice": "a list of texts that constrained decoding supports",
    "regex": "a regular expression that constrained decoding supports",
    "tools": "a JSON Schema that constrained decoding supports",
}
_MAX_CACHED = 256

_results: LRUCache[tuple[str, str], dict[str, str]] = LRUCache(_MAX_CACHED)
_lock = threading.Lock()


def grammar_of(constraint: Constraint | None) -> str | None:
    """Returns the grammar of a constraint, in llguidance's notation; None for free text. Results are cached.

    Raises:
        ValidationError: The constraint cannot be followed; the message names the place and the reason.
    """
    if constraint is None:
        return None
    key = (constraint.kind, json.dumps(constraint.value))
    with _lock:
        result = _results.get(key)
    if result is None:
        result = _check(constraint)
        with _lock:
            _results[key] = result
    if "grammar" not in result:
        field = ".".join(part for part in (constraint.field, result["path"]) if part).replace(".[", "[")
        noun = "schema" if constraint.kind in ("json", "tools") else constraint.kind
        raise ValidationError([Problem(field, f"an unsupported {noun} ({result['reason']})", _ALLOWED[constraint.kind])])
    return result["grammar"]


def ensure_conforms(constraint: Constraint | None, text: str) -> None:
    """Checks a completion that has ended by itself.

    Raises:
        GenerationError: It does not conform to its constraint.
    """
    if constraint is None:
        return
    try:
        conforms = bool(sandbox().run("conforms", kind=constraint.kind, value=constraint.value, text=text))
    except LimitExceeded:
        conforms = False
    if not conforms:
        raise GenerationError(f"The completion does not conform to `{constraint.field.partition('.')[0]}`. Send the job again.")


def _check(constraint: Constraint) -> dict[str, str]:
    try:
        result: dict[str, str] = sandbox().run("check", kind=constraint.kind, value=constraint.value)
    except LimitExceeded:
        path = show(most_complex(constraint.value)) if constraint.kind == "json" else ""
        return {"path": path, "reason": "it is too complex to compile"}
    return result
