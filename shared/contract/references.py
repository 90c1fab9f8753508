"""References to images: URLs, `data:` URLs and storage paths. `shared.fetch` decides whether one may be fetched."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from shared.contract.fields import ensure_valid_text
from shared.contract.rejections import refuse

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_ALLOWED = "an https:// URL, a data: URL with an image, or a storage path"


@dataclass(frozen=True, repr=False)
class Reference:
    """An image that a request refers to.

    `str` and `repr` omit query strings, credentials and image data, so that messages and log lines may contain a reference.

    Attributes:
        kind: `data` for a `data:` URL, `url` for any other scheme, even a forbidden one, `storage` for a path.
        value: The text as sent.
        is_mask: Whether alpha, where it varies, is the image's meaning.
    """

    kind: Literal["url", "data", "storage"]
    value: str
    is_mask: bool = False

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Determines the kind of a reference. Every text has one: `shared.fetch` applies the policy."""
        scheme = _SCHEME.match(text)
        if scheme is None:
            return cls("storage", text)
        return cls("data" if scheme.group().lower() == "data:" else "url", text)

    def as_mask(self) -> Reference:
        """Returns the same reference, read as a mask."""
        return replace(self, is_mask=True)

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
        return core_schema.no_info_plain_validator_function(cls._validate)

    @classmethod
    def _validate(cls, value: object) -> Reference:
        if isinstance(value, Reference):
            return value
        if not isinstance(value, str) or not value:
            raise refuse(_ALLOWED)
        return cls.parse(ensure_valid_text(value))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "minLength": 1, "contentMediaType": "image/*", "allowed": _ALLOWED}


def _without_secrets(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "a malformed URL"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
