"""What a reference looks like. Whether it may be fetched is decided where it is fetched."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from shared.contract.field_location import refuse
from shared.contract.fields import ensure_valid_text

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_ALLOWED = "an https:// URL, a data: URL with an image, or a storage path"


@dataclass(frozen=True, repr=False)
class Reference:
    """A picture that a request points to.

    `str` and `repr` never show a query string, credentials or image data, so that a reference may stand in messages and log lines.

    Attributes:
        kind: `url` for whatever has a scheme, the forbidden ones included; `data` for a `data:` URL; `storage` for a path.
        value: What the caller sent.
    """

    kind: Literal["url", "data", "storage"]
    value: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Tells the three kinds apart. Every text is one of them: policy belongs to whoever fetches."""
        scheme = _SCHEME.match(text)
        if scheme is None:
            return cls("storage", text)
        return cls("data" if scheme.group().lower() == "data:" else "url", text)

    def __str__(self) -> str:
        if self.kind == "data":
            return f"a data: URL of {len(self.value)} characters"
        if self.kind == "storage":
            return self.value.partition("?")[0][:200]
        return _without_secrets(self.value)[:200]

    def __repr__(self) -> str:
        return f"Reference({self.kind!r}, {str(self)!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls._read)

    @classmethod
    def _read(cls, value: object) -> Reference:
        if isinstance(value, Reference):
            return value
        if not isinstance(value, str) or not value:
            raise refuse(_ALLOWED)
        return cls.parse(ensure_valid_text(value))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "minLength": 1, "allowed": _ALLOWED}


def _without_secrets(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "a malformed URL"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
