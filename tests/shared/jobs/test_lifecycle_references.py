"""References on their way into a job."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Generator
from io import BytesIO

from PIL import Image

from handlers.sdxl.request import SdxlRequest
from shared.jobs.lifecycle import Completed, Failed, run_job
from shared.jobs.recipe import JobRun, Output
from tests.shared.jobs.conftest import Made, Workers, job, picture, run


def as_data(colour: str) -> str:
    content = BytesIO()
    Image.new("RGB", (32, 32), colour).save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def making(request: SdxlRequest, run: JobRun) -> Generator[Output]:
    yield picture()


def test_recipe_receives_every_reference_by_its_field(worker: Workers) -> None:
    own = worker(making)
    controls = [{"kind": "canny", "image": as_data("lime")}]
    end = asyncio.run(run_job(job(image=as_data("red"), controls=controls), own, run()))
    assert isinstance(end, Completed)
    assert isinstance(own.recipe, Made)
    (references,) = own.recipe.seen
    assert {name: image.getpixel((0, 0)) for name, image in references.items()} == {
        "metadata.reference_image_url": (255, 0, 0),
        "config.controls[0].image": (0, 255, 0),
    }


def test_unusable_reference_fails_the_job_before_generation(worker: Workers) -> None:
    own = worker(making)
    end = asyncio.run(run_job(job(image="data:image/png;base64,bm90IGEgcGljdHVyZQ=="), own, run()))
    assert isinstance(end, Failed)
    assert end.error.code == "REFERENCE_IMAGE_ERROR"
    assert "metadata.reference_image_url" in end.error.message
    assert isinstance(own.recipe, Made)
    assert own.recipe.seen == []


def test_private_address_fails_the_job_without_quoting_the_url(worker: Workers) -> None:
    end = asyncio.run(run_job(job(image="https://127.0.0.1/a.png?token=canary"), worker(making), run()))
    assert isinstance(end, Failed)
    assert end.error.code == "REFERENCE_IMAGE_ERROR"
    assert "canary" not in end.error.message
