"""The accelerations of the request contract, and the branches of the UNet that DeepCache computes in every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from shared.contract.field_location import FieldLocation

Acceleration = Annotated[
    Literal["none", "lossless", "fast", "deepcache", "deepcache_shallow"],
    FieldLocation("config.acceleration"),
    Field(
        description="`lossless` changes only rounding, on a GPU. DeepCache reuses the UNet's inner features between steps: faster still, "
        "but another image; `deepcache_shallow` reuses more of them. `fast` is `deepcache`."
    ),
]
"""The setting of a request."""

BRANCHES: Mapping[str, int] = {"deepcache": 2, "deepcache_shallow": 1}
"""How many of the UNet's resolutions, from the outermost, are computed in every step, by the names in payloads. Of SDXL's three,
`deepcache` reuses the innermost, which has 60 of the 70 transformer layers; `deepcache_shallow` the middle one too, which comes closest to
what the authors of DeepCache do."""

_ALIASES: Mapping[str, str] = {"fast": "deepcache"}


def deep_cache_name(acceleration: str) -> str | None:
    """Returns the name in payloads of the DeepCache that a setting enables; None for settings that enable none."""
    name = _ALIASES.get(acceleration, acceleration)
    return name if name in BRANCHES else None
