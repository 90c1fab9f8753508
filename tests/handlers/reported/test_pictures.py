"""Reference images as people send them: whatever does not change a pixel does not change a job; missing pixels fail it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.handlers.reported.jobs import JobRunner, data_url, reported
from tests.handlers.reported.pictures import AS_THE_JPEG, AS_THE_PNG, INCOMPLETE, JPEG, PNG, jpeg, picture, saved


def with_reference(content: bytes, mime: str = "image/png") -> Mapping[str, Any]:
    """The input of the report on large texts, with another reference."""
    job: dict[str, Any] = reported("job_ztxt_png.json")["input"]
    return job | {"metadata": job["metadata"] | {"reference_image_url": data_url(content, mime)}}


@pytest.fixture(scope="module")
def of_the_png(sdxl_jobs: JobRunner) -> np.ndarray[Any, Any]:
    return sdxl_jobs.run(with_reference(PNG)).pixels


@pytest.fixture(scope="module")
def of_the_jpeg(sdxl_jobs: JobRunner) -> np.ndarray[Any, Any]:
    return sdxl_jobs.run(with_reference(JPEG, "image/jpeg")).pixels


@pytest.mark.parametrize("kind", AS_THE_PNG)
def test_metadata_of_any_size_and_damaged_metadata_do_not_change_the_job(
    sdxl_jobs: JobRunner, of_the_png: np.ndarray[Any, Any], kind: str
) -> None:
    assert np.array_equal(sdxl_jobs.run(with_reference(AS_THE_PNG[kind]())).pixels, of_the_png)


@pytest.mark.parametrize("kind", AS_THE_JPEG)
def test_a_jpeg_with_all_of_its_pixels_gives_the_job_of_the_whole_file(
    sdxl_jobs: JobRunner, of_the_jpeg: np.ndarray[Any, Any], kind: str
) -> None:
    assert np.array_equal(sdxl_jobs.run(with_reference(AS_THE_JPEG[kind](), "image/jpeg")).pixels, of_the_jpeg)


@pytest.mark.parametrize("kind", INCOMPLETE)
def test_a_picture_that_lacks_pixels_fails_its_job(sdxl_jobs: JobRunner, kind: str) -> None:
    code, message = sdxl_jobs.run(with_reference(INCOMPLETE[kind]())).error
    assert code == "REFERENCE_IMAGE_ERROR"
    assert "damaged" in message


def test_the_reported_png_with_a_workflow_of_2_mb_opens(sdxl_jobs: JobRunner) -> None:
    result = sdxl_jobs.run(reported("job_ztxt_png.json")["input"])
    assert result.pixels.shape == (64, 64, 3)
    from_file = sdxl_jobs.run(with_reference(reported("png_ztxt_2MB_workflow.png")))
    assert from_file.pixels.shape == (64, 64, 3)


@pytest.mark.parametrize(("name", "mime"), [("png_bad_ancillary_crc.png", "image/png"), ("jpeg_missing_eoi.jpg", "image/jpeg")])
def test_the_reported_damaged_files_open(sdxl_jobs: JobRunner, name: str, mime: str) -> None:
    assert sdxl_jobs.run(with_reference(reported(name), mime)).pixels.shape == (64, 64, 3)


@pytest.mark.parametrize("missing", [3, 4, 6, 9, 16, 40])
def test_a_jpeg_that_lacks_bytes_of_its_last_blocks_is_not_taken_for_a_whole_one(sdxl_jobs: JobRunner, missing: int) -> None:
    assert sdxl_jobs.run(with_reference(JPEG[:-missing], "image/jpeg")).error[0] == "REFERENCE_IMAGE_ERROR"


@pytest.mark.parametrize(
    "content",
    [
        saved(picture().convert("L")),
        saved(picture().convert("1")),
        saved(picture().convert("P")),
        saved(picture().convert("P"), transparency=7),
        saved(picture().convert("LA")),
        saved(Image.fromarray(np.asarray(picture().convert("L")).astype(np.uint16) * 257)),
        saved(picture().convert("CMYK"), "JPEG"),
        jpeg(progressive=True),
        jpeg(restart_marker_blocks=1),
        saved(picture().convert("L"), "JPEG"),
    ],
    ids=[
        "grey",
        "1 bit",
        "palette",
        "palette with transparency",
        "grey with alpha",
        "16 bit grey",
        "CMYK",
        "progressive",
        "restarts",
        "grey JPEG",
    ],
)
def test_pictures_of_every_mode_open(sdxl_jobs: JobRunner, content: bytes) -> None:
    assert sdxl_jobs.run(with_reference(content)).pixels.shape == (64, 64, 3)


@pytest.mark.parametrize(
    "content", [saved(picture(), "GIF"), saved(picture(), "GIF") + b"trailing" * 10_000], ids=["GIF", "trailing bytes"]
)
def test_a_gif_is_refused_as_what_it_is_not(sdxl_jobs: JobRunner, content: bytes) -> None:
    code, message = sdxl_jobs.run(with_reference(content)).error
    assert code == "REFERENCE_IMAGE_ERROR"
    assert "not a PNG, JPEG or WebP" in message


def test_raw_base64_is_answered_with_the_prefix_to_write(sdxl_jobs: JobRunner) -> None:
    job = with_reference(PNG)
    raw = job["metadata"]["reference_image_url"].partition(",")[2]
    _, message = sdxl_jobs.run({**job, "metadata": {"reference_image_url": raw, "denoise_strength": 0.5}}).error
    assert "data:image/png;base64," in message
