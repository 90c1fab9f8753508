"""The handlers' pages show what each parameter does, in pictures that are made again alike."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handlers.sdxl.request import SdxlRequest
from playground.pictures import layout, render
from playground.pictures.__main__ import MAX_BYTES, path_of
from playground.pictures.table import PICTURES, Picture
from shared.contract.field_location import field_locations

ROOT = Path(__file__).parents[2]
SHOWN_FOR = {
    "seed", "guidance_scale", "steps", "scheduler", "negative_prompt", "denoise_strength", "reference_type", "reference_strength",
    "controls", "loras", "mask", "enhance",
}  # fmt: skip
"""Attributes of an SDXL request. The others change a size, a format or a name, or need weights that the small models do not have."""


def digest_in(path: Path) -> str:
    with Image.open(path) as image:
        if path.suffix == ".webp":
            return bytes(image.info["xmp"]).decode().removeprefix(f"{layout.DIGEST} ")
        return str(image.info[layout.DIGEST])


def test_each_parameter_with_a_visible_effect_has_a_picture() -> None:
    assert {picture.name for picture in PICTURES if picture.handler == "sdxl"} == SHOWN_FOR <= set(field_locations(SdxlRequest))
    assert {picture.name for picture in PICTURES if picture.handler == "wan"} == {"none", "single", "start", "end", "both"}


@pytest.mark.parametrize("handler", ["sdxl", "wan"])
def test_the_page_shows_all_of_them_and_no_other(handler: str) -> None:
    page = (ROOT / f"docs/handlers/{handler}.md").read_text(encoding="utf-8")
    shown = re.findall(rf"\]\(\.\./(images/{handler}/[^)]+)\)", page)
    assert sorted(shown) == sorted(f"images/{handler}/{path_of(picture).name}" for picture in PICTURES if picture.handler == handler)
    assert {path.name for path in (ROOT / f"docs/images/{handler}").iterdir()} == {Path(name).name for name in shown}


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_a_picture_is_of_the_requests_of_the_table_and_small(picture: Picture) -> None:
    assert digest_in(path_of(picture)) == render.digest(picture), "run `make pictures`"
    assert path_of(picture).stat().st_size <= MAX_BYTES


def pixels(content: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"), np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loras", "single"])
def test_a_picture_that_is_made_again_shows_the_same(models: Path, name: str) -> None:
    """Up to what another processor rounds otherwise: 40 dB are a mean difference of two levels."""
    (picture,) = (each for each in PICTURES if each.name == name)
    made = pixels(render.make(picture, render.load_recipe(picture.handler, models)))
    before = pixels(path_of(picture).read_bytes())
    assert made.shape == before.shape
    assert 10 * np.log10(255**2 / max(np.mean((made - before) ** 2), 1e-9)) > 40
