"""Loads the generated schemas, as a callback receiver would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_SCHEMAS = Path(__file__).parents[2] / "schemas"


def payload_schema(handler: str) -> dict[str, Any]:
    """Returns the schema of a handler's payloads."""
    schema: dict[str, Any] = json.loads((_SCHEMAS / f"{handler}.payload.schema.json").read_text())
    return schema
