"""Field types that several requests share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticKnownError

from shared.contract.context import Context
from shared.contract.field_location import ComputedDefault, FieldLocation
from shared.contract.names import ADDON_NAME
from shared.contract.rejections import refuse

LARGEST_SEED = 2_147_483_647

_LONE_SURROGATE_OR_NUL = re.compile("[\x00\ud800-\udfff]")


def ensure_valid_text(text: str) -> str:
    """Rejects text that cannot be encoded as UTF-8 or stored in a database."""
    if _LONE_SURROGATE_OR_NUL.search(text):
        raise refuse("text without NUL characters and unpaired surrogates")
    return text


def derive_seed(user_id: str | None, job_id: str) -> int:
    """Returns the seed of a job that names none: 1 … 2147483647, a function of the job alone.

    RunPod delivers a job at least once. Both runs make the same files, so that row, object and callback never speak of different pictures.
    """
    digest = hashlib.sha256(f"{user_id or ''}/{job_id}".encode(errors="backslashreplace")).digest()
    return 1 + int.from_bytes(digest) % LARGEST_SEED


def batch_seeds(seed: int, count: int) -> tuple[int, ...]:
    """Returns `seed`, `seed + 1` …, wrapping from the largest seed to 1: receivers read 0 as absent."""
    return tuple(each if (each := seed + index) <= LARGEST_SEED else each - LARGEST_SEED for index in range(count))


def _seed_of_job(data: Mapping[str, Any], context: Context) -> int:
    return derive_seed(data.get("user_id"), data.get("job_id") or context.job_id or "")


Text = Annotated[str, AfterValidator(ensure_valid_text)]
"""A string without unpaired surrogates and NUL characters."""

Id = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$", json_schema_extra={"allowed": "1 to 128 of the characters A–Z, a–z, 0–9, _ and -"})
]
"""An id that becomes a segment of a storage path."""

Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
"""0 … 2147483647."""

seed_of_job = ComputedDefault(_seed_of_job, "derived from the job: 1 + SHA-256(`{user_id}/{job_id}`) mod 2147483647")
"""The default of a seed. The fields `user_id` and `job_id` must be declared before it."""


def _ensure_int(value: object) -> object:
    if type(value) is not int:
        raise PydanticKnownError("int_type")
    return value


ExactInt = BeforeValidator(_ensure_int)
"""For literal integers, where pydantic would accept `true` and `1.0` as 1."""


_PLAIN = 'a file name of up to 128 characters, in any script, without / \\ : * ? " < > | % and two dots in a row; never a path or a URL'

Name = Annotated[str, Field(pattern=ADDON_NAME, max_length=128, json_schema_extra={"allowed": _PLAIN})]
"""The name of an add-on in the operator's catalogue or folders."""

PreviewFlag = Annotated[
    bool,
    FieldLocation("config.preview"),
    Field(description="Whether progress updates carry a small image of the current state, as `preview`."),
]
"""Whether the caller wants latent previews."""
