"""Field types that several requests share."""

from __future__ import annotations

import re
import secrets
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticKnownError

from shared.contract.field_location import ComputedDefault, FieldLocation
from shared.contract.rejections import refuse

LARGEST_SEED = 2_147_483_647

_LONE_SURROGATE_OR_NUL = re.compile("[\x00\ud800-\udfff]")


def ensure_valid_text(text: str) -> str:
    """Rejects text that cannot be encoded as UTF-8 or stored in a database."""
    if _LONE_SURROGATE_OR_NUL.search(text):
        raise refuse("text without NUL characters and unpaired surrogates")
    return text


def _draw_seed(*_: object) -> int:
    return secrets.randbelow(LARGEST_SEED) + 1


Text = Annotated[str, AfterValidator(ensure_valid_text)]
"""A string without unpaired surrogates and NUL characters."""

Id = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$", json_schema_extra={"allowed": "1 to 128 of the characters A–Z, a–z, 0–9, _ and -"})
]
"""An id that becomes a segment of a storage path."""

Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
"""0 … 2147483647."""

random_seed = ComputedDefault(_draw_seed, "drawn, 1 … 2147483647")
"""The default of a seed: drawn from the operating system's random generator."""


def _ensure_int(value: object) -> object:
    if type(value) is not int:
        raise PydanticKnownError("int_type")
    return value


ExactInt = BeforeValidator(_ensure_int)
"""For literal integers, where pydantic would accept `true` and `1.0` as 1."""


_PLAIN = "a plain name of up to 128 letters, digits, spaces and . _ + -, never a path or a URL"

# Two dots in a row are excluded, because they climb a path.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_](\.?[A-Za-z0-9_ +-])*\.?$", max_length=128, json_schema_extra={"allowed": _PLAIN})]
"""The name of an add-on in the operator's catalogue or folders."""

PreviewFlag = Annotated[
    bool,
    FieldLocation("config.preview"),
    Field(description="Whether progress updates carry a small image of the current state, as `preview`."),
]
"""Whether the caller wants latent previews."""
