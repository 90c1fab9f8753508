"""A bucket that refuses what a job would store: the job fails before its work, until the bucket accepts it again."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from handlers.sdxl.handler import HANDLER as SDXL
from handlers.sdxl.request import SdxlRequest
from handlers.wan.handler import HANDLER as WAN
from handlers.wan.request import WanRequest
from shared.contract.callback import FailedPayload
from shared.fetch import Fetcher
from shared.jobs.lifecycle import Completed, Outcome, Worker, run_job
from shared.jobs.recipe import ImageOutput, JobRun, Output
from shared.settings import Settings
from shared.storage import open_storage
from tests.doubles.fake_storage import FakeStorage, fails_with
from tests.shared.jobs.conftest import MakeWorker, image_output, job, run

KEY = "sb_secret_canary"


@pytest.fixture
def server() -> Iterator[FakeStorage]:
    with FakeStorage(KEY) as server:
        yield server


class Scenario:
    """A worker without an outbox, and the jobs that its recipe has worked on."""

    def __init__(self, make_worker: MakeWorker, server: FakeStorage) -> None:
        settings = Settings(supabase_url=server.url, supabase_key=SecretStr(KEY))
        worker = make_worker(self._generate)
        storage = open_storage(settings)
        worker.callbacks._storage = storage
        self.generated: list[str] = []
        self._worker: Worker[SdxlRequest] = replace(worker, storage=storage, fetcher=Fetcher(settings), types_of=SDXL.types_of_job)

    def _generate(self, request: SdxlRequest, run: JobRun) -> Generator[Output]:
        self.generated.append(request.job_id)
        yield image_output()

    def run(self, job_id: str, **config: str) -> Outcome:
        return asyncio.run(run_job(job(job_id, **config), self._worker, run(job_id)))


def code(outcome: Outcome) -> tuple[str, bool]:
    assert isinstance(outcome.payload, FailedPayload)
    return outcome.payload.metadata.error_code, outcome.payload.metadata.retryable


@pytest.mark.parametrize("status", [401, 403, 404, 415])
def test_after_a_refusal_no_further_job_is_worked_on_until_storage_accepts(
    make_worker: MakeWorker, server: FakeStorage, status: int
) -> None:
    scenario = Scenario(make_worker, server)
    assert isinstance(scenario.run("first"), Completed)
    server.outage = fails_with(status)
    assert [code(scenario.run(name)) for name in ("second", "third", "fourth")] == [("UPLOAD_ERROR", False)] * 3
    assert scenario.generated == ["first", "second"]
    server.outage = None
    assert isinstance(scenario.run("fifth"), Completed)
    assert scenario.generated == ["first", "second", "fifth"]


def test_only_the_format_that_the_bucket_refuses_fails(make_worker: MakeWorker, server: FakeStorage) -> None:
    scenario, server.mime_types = Scenario(make_worker, server), ["image/png", "image/webp"]
    assert code(scenario.run("jpeg", output_format="jpeg")) == ("UPLOAD_ERROR", False)
    assert scenario.generated == []
    assert isinstance(scenario.run("png", output_format="png"), Completed)


INLINE = [
    ({"resolution": "1024x1024"}, True),
    ({"resolution": "1024x1024", "output_format": "jpeg"}, True),
    ({"resolution": "1024x1024", "output_format": "webp", "num_images": 3}, True),
    ({"resolution": "1024x1024", "num_images": 3}, False),
    ({"resolution": "1024x1024", "output_format": "webp", "num_images": 6}, False),
    ({"resolution": "512x512", "num_images": 6}, True),
    ({"resolution": "1024x1024", "upscale": {"factor": 2}}, False),
]


@pytest.mark.parametrize(("config", "fits"), INLINE)
def test_what_may_not_fit_inline_is_refused_before_the_work(make_worker: MakeWorker, config: dict[str, Any], fits: bool) -> None:
    generated: list[str] = []

    def generate(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        generated.append(request.job_id)
        yield image_output()

    storage = open_storage(Settings(result_storage="inline"))
    worker = make_worker(generate)
    worker.callbacks._storage = storage
    outcome = asyncio.run(run_job(job("big", **config), replace(worker, storage=storage, max_bytes_of=SDXL.max_bytes_of), run("big")))
    if fits:
        assert isinstance(outcome, Completed)
        assert outcome.payload.assets[0].model_dump()["data"]
    else:
        assert code(outcome) == ("UPLOAD_ERROR", False)
        assert isinstance(outcome.payload, FailedPayload)
        assert "a result returned inline has at most 6 MB. Nothing was generated." in outcome.payload.error_message
    assert generated == (["big"] if fits else [])


def test_a_result_that_does_not_fit_inline_is_a_clear_error(make_worker: MakeWorker) -> None:
    def generate(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        noise = np.random.default_rng(1).integers(0, 256, (1024, 1024, 3), np.uint8)
        for seed in range(3):  # each fits alone
            yield ImageOutput(noise, seed)

    storage = open_storage(Settings(result_storage="inline"))
    worker = make_worker(generate)
    worker.callbacks._storage = storage
    outcome = asyncio.run(run_job(job("large"), replace(worker, storage=storage), run("large")))
    assert isinstance(outcome.payload, FailedPayload)
    assert code(outcome) == ("GENERATION_ERROR", False)
    assert "RunPod takes at most 8 MiB. Ask for fewer or smaller files." in outcome.payload.error_message


def test_the_bound_of_a_clip_is_not_known() -> None:
    request = {"id": "j", "user_id": "u", "prompt": "p"}
    assert WAN.max_bytes_of(WanRequest.parse({**request, "type": "video_fast"}, job_id="j")) == 0
    assert WAN.max_bytes_of(WanRequest.parse({**request, "type": "image_fast"}, job_id="j")) > 832 * 480 * 3


def test_every_handler_declares_what_its_jobs_store() -> None:
    def wan(**fields: object) -> WanRequest:
        return WanRequest.parse({"id": "j", "user_id": "u", "prompt": "p", **fields}, job_id="j")

    assert SDXL.stored_types == ("image/png", "image/webp", "image/jpeg")
    assert WAN.stored_types == ("video/mp4", "image/webp")
    assert WAN.types_of_job(wan(type="image_fast")) == ("image/png", "image/webp")
    assert WAN.types_of_job(wan(type="video_fast")) == ("video/mp4", "image/webp")
    extras = wan(type="video_fast", config={"extras": ["gif", "webm", "poster"]})
    assert WAN.types_of_job(extras) == ("video/mp4", "image/webp", "image/gif", "video/webm", "image/png")
