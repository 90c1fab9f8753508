"""References: fetched and verified before generation, under the name of their field."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Generator
from io import BytesIO

from PIL import Image

from handlers.sdxl.request import SdxlRequest
from shared.jobs.lifecycle import Completed, Failed, run_job
from shared.jobs.recipe import JobRun, Output
from tests.shared.jobs.conftest import MakeWorker, ScriptedRecipe, image_output, job, run


def data_url(color: str) -> str:
    content = BytesIO()
    Image.new("RGB", (32, 32), color).save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def generate(request: SdxlRequest, run: JobRun) -> Generator[Output]:
    yield image_output()


def test_recipe_receives_every_reference_by_its_field(make_worker: MakeWorker) -> None:
    worker = make_worker(generate)
    controls = [{"kind": "canny", "image": data_url("lime")}]
    outcome = asyncio.run(run_job(job(image=data_url("red"), controls=controls), worker, run()))
    assert isinstance(outcome, Completed)
    assert isinstance(worker.recipe, ScriptedRecipe)
    (references,) = worker.recipe.received
    assert {name: image.getpixel((0, 0)) for name, image in references.items()} == {
        "metadata.reference_image_url": (255, 0, 0),
        "config.controls[0].image": (0, 255, 0),
    }


def test_unusable_reference_fails_the_job_before_generation(make_worker: MakeWorker) -> None:
    worker = make_worker(generate)
    outcome = asyncio.run(run_job(job(image="data:image/png;base64,bm90IGEgcGljdHVyZQ=="), worker, run()))
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "REFERENCE_IMAGE_ERROR"
    assert "metadata.reference_image_url" in outcome.error.message
    assert isinstance(worker.recipe, ScriptedRecipe)
    assert worker.recipe.received == []


def test_private_address_fails_the_job_without_quoting_the_url(make_worker: MakeWorker) -> None:
    outcome = asyncio.run(run_job(job(image="https://127.0.0.1/a.png?token=canary"), make_worker(generate), run()))
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "REFERENCE_IMAGE_ERROR"
    assert "canary" not in outcome.error.message
