"""A field is added with one declaration; everything else is derived from it."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import Field

from builder.contract.pages import request_table
from builder.contract.schemas import request_schema
from handlers.sdxl.request import SdxlRequest
from shared.contract.field_location import FieldLocation
from shared.errors import ValidationError


class WithTiling(SdxlRequest):
    """An SDXL request with an additional field."""

    tiling: Annotated[int, Field(ge=0, le=4, description="Tiles a side."), FieldLocation("config.tiling", ("tile_count",))] = 0


BASE = {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": "p"}


def test_new_field_is_read_from_every_section_and_alias() -> None:
    assert WithTiling.parse(BASE | {"config": {"tiling": 2}}, job_id="r").tiling == 2
    assert WithTiling.parse(BASE | {"tile_count": 3}, job_id="r").tiling == 3
    assert WithTiling.parse(BASE, job_id="r").tiling == 0


def test_new_field_is_validated() -> None:
    with pytest.raises(ValidationError, match=r"`config.tiling` must be a whole number from 0 to 4; got 9 \(nearest: 4\)"):
        WithTiling.parse(BASE | {"config": {"tiling": 9}}, job_id="r")


def test_new_field_is_suggested_for_a_misspelt_name() -> None:
    assert "did you mean `config.tiling`?" in WithTiling.parse(BASE | {"config": {"tilling": 1}}, job_id="r").warnings[0]


def test_new_field_is_in_the_schema_and_the_table() -> None:
    config = request_schema(WithTiling)["properties"]["config"]["anyOf"][0]["properties"]
    assert config["tiling"]["description"] == "Tiles a side. Default: 0."
    assert config["tile_count"]["deprecated"] is True
    assert "| `config.tiling` | `config.tile_count` | a whole number from 0 to 4 | 0 | Tiles a side. |" in request_table(WithTiling)
