"""What may be put beside a model is listed with what an operator has to know of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from handlers.sdxl.adapters import SERVING
from shared.weights.additions import IP_ADAPTERS, Addition
from shared.weights.shelf import BOARDS

DOCS = Path(__file__).parents[2] / "docs/handlers/sdxl_references.md"
PUBLISHED = {name for files in SERVING.values() for name in files} - set(SERVING)


@pytest.mark.parametrize("addition", IP_ADAPTERS, ids=lambda addition: addition.place)
def test_an_addition_says_where_it_comes_from_and_lies_where_the_shelf_looks(addition: Addition) -> None:
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", addition.repo)
    assert addition.licence == "Apache-2.0"
    assert 5e8 < addition.size < 3e9
    assert addition.place.startswith(f"{BOARDS['ip_adapters'].folder}/")


def test_every_published_file_that_serves_a_type_is_listed_with_the_image_encoder() -> None:
    listed = {addition.place.removeprefix("ip_adapters/").removesuffix(".safetensors") for addition in IP_ADAPTERS}
    assert listed == PUBLISHED | {"image_encoder"}


def test_the_page_for_operators_has_the_table_that_is_used() -> None:
    places = {"all": "all layers", "style": "the layers of style", "layout": "the layers of layout"}
    rows = [f"`{name}.safetensors` | {places[layers]} |" for files in SERVING.values() for name, layers in files.items()]
    written = re.findall(r"^\| [a-z]* ?\| (.+\|)$", DOCS.read_text(), flags=re.MULTILINE)
    assert [row for row in written if row.startswith("`")] == rows
