"""The operators' page lists every adapter file with its source, licence and size."""

from __future__ import annotations

import re
from pathlib import Path

from handlers.sdxl.features.ip_adapter import ADAPTERS_BY_TYPE
from shared.weights.addons import ADDON_KINDS

PAGE = (Path(__file__).parents[3] / "docs/handlers/sdxl_references.md").read_text()
PUBLISHED = {name for files in ADAPTERS_BY_TYPE.values() for name in files} - set(ADAPTERS_BY_TYPE)


def test_every_published_adapter_and_the_image_encoder_are_listed() -> None:
    row = r"^\| `([\w.-]+?)(?:\.safetensors|/)` \| [\w-]+/[\w-]+\b.* \| Apache-2\.0 \| (\d+) \|$"
    listed = {name: int(size) for name, size in re.findall(row, PAGE, flags=re.MULTILINE)}
    assert listed.keys() == PUBLISHED | {str(ADDON_KINDS["image_encoder"].only)}
    assert all(500 < size < 3000 for size in listed.values())
    assert f"`MODELS_DIR/{ADDON_KINDS['ip_adapters'].folder}`" in PAGE


def test_the_page_has_the_table_of_the_code() -> None:
    places = {"all": "all layers", "style": "the layers of style", "layout": "the layers of layout"}
    rows = [f"`{name}.safetensors` | {places[layers]} |" for files in ADAPTERS_BY_TYPE.values() for name, layers in files.items()]
    written = re.findall(r"^\| [a-z]* ?\| (`.+\|)$", PAGE, flags=re.MULTILINE)
    assert written == rows
