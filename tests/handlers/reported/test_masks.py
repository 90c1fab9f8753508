"""Masks as people save them: of any mode, shape and orientation, a mask covers its picture as a whole."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.media.images import Pixels
from tests.handlers.reported.jobs import JobRunner, Result, data_url, reported
from tests.handlers.reported.pictures import saved

SIDE = 96
_CLEARLY = 64
"""Levels by which a painted pixel differs. At the edge of a mask, pixels are blended."""


def box(width: int = SIDE, height: int = SIDE) -> Image.Image:
    """A mask with a white box in the left half of the picture, at any aspect ratio of the file."""
    image = Image.new("L", (width, height))
    image.paste(255, (width // 8, height // 12, width * 3 // 8, height * 5 // 12))
    return image


def with_mask(content: bytes) -> dict[str, Any]:
    """The input of the report on masks of another shape, with another mask."""
    job: dict[str, Any] = copy.deepcopy(reported("job_mask_other_aspect.json")["input"])
    job["config"]["mask"] = data_url(content)
    return job


@pytest.fixture(scope="module")
def unpainted(sdxl_jobs: JobRunner) -> Pixels:
    return sdxl_jobs.run(with_mask(saved(Image.new("L", (SIDE, SIDE))))).pixels


def painted(result: Result, unpainted: Pixels) -> tuple[int, int, int, int]:
    """The first and last column, and the first and last row, that were painted."""
    changed = np.abs(result.pixels.astype(int) - unpainted).max(axis=2) > _CLEARLY
    rows, columns = np.nonzero(changed)
    assert changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].mean() > 0.9
    return int(columns.min()), int(columns.max()), int(rows.min()), int(rows.max())


def transparent_box(mode: str) -> Image.Image:
    """A grey picture, transparent where a mask would be white."""
    image = Image.new("RGBA", (SIDE, SIDE), (90, 90, 90, 255))
    image.paste((90, 90, 90, 0), mask=box())
    return image.convert(mode)


def palette_mask(colours: list[int], **options: Any) -> bytes:
    image = Image.new("P", (SIDE, SIDE), 1)
    image.putpalette(colours)
    image.paste(0, mask=box())
    return saved(image, **options)


def turned(orientation: int, transposition: Image.Transpose) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(box().transpose(transposition), exif=exif)


MASKS = {
    "a square": lambda: saved(box()),
    "the picture's own shape": lambda: saved(box(192, 96)),
    "a tall mask": lambda: saved(box(48, 96)),
    "a wide mask": lambda: saved(box(384, 96)),
    "another size": lambda: saved(box(768, 384)),
    "RGB": lambda: saved(box().convert("RGB")),
    "1 bit": lambda: saved(box().convert("1")),
    "16 bits": lambda: saved(Image.fromarray(np.asarray(box()).astype(np.uint16) * 257)),
    "opaque RGBA": lambda: saved(box().convert("RGBA")),
    "a palette": lambda: palette_mask([255, 255, 255, 10, 10, 10]),
    "alpha": lambda: saved(transparent_box("RGBA")),
    "grey with alpha": lambda: saved(transparent_box("LA")),
    "a palette with a transparent colour": lambda: palette_mask([60, 60, 60, 60, 60, 60], transparency=0),
    "a WebP with alpha": lambda: saved(transparent_box("RGBA"), "WEBP", lossless=True, exact=True),
    "an EXIF rotation": lambda: turned(6, Image.Transpose.ROTATE_90),
    "an EXIF mirror": lambda: turned(2, Image.Transpose.FLIP_LEFT_RIGHT),
}


BOX = (0, 15, 5, 26)
"""The box in the image: the square in the middle of the picture, 96 × 96, is scaled to 64 × 64."""


def test_the_reported_mask_paints_the_left_of_the_image(sdxl_jobs: JobRunner, unpainted: Pixels) -> None:
    assert painted(sdxl_jobs.run(reported("job_mask_other_aspect.json")["input"]), unpainted)[:2] == (0, 15)


@pytest.mark.parametrize("kind", MASKS)
def test_every_form_of_a_mask_paints_the_same_part(sdxl_jobs: JobRunner, unpainted: Pixels, kind: str) -> None:
    assert painted(sdxl_jobs.run(with_mask(MASKS[kind]())), unpainted) == BOX


@pytest.mark.parametrize("exif_orientation", [3, 6, 8])
def test_a_turned_picture_and_its_upright_mask_fit(sdxl_jobs: JobRunner, exif_orientation: int) -> None:
    """A mask is drawn over what a person sees."""
    undo = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    upright = Image.new("RGB", (192, 96), (200, 60, 20))
    upright.paste((20, 60, 200), (96, 0, 192, 48))
    exif = Image.Exif()
    exif[0x0112] = exif_orientation
    job = reported("job_mask_other_aspect.json")["input"]
    plain, stored_turned = (
        sdxl_jobs.run(job | {"metadata": job["metadata"] | {"reference_image_url": data_url(content)}}).pixels
        for content in (saved(upright), saved(upright.transpose(undo[exif_orientation]), exif=exif))
    )
    assert np.array_equal(plain, stored_turned)
