"""Concurrent jobs of one worker: one generates while another uploads, and the GPU runs one at a time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from handlers.sdxl.handler import HANDLER as SDXL
from handlers.wan.handler import HANDLER as WAN
from shared.handler import Handler as ServedHandler
from shared.settings import Settings
from tests.doubles.fake_storage import FakeStorage, Handler
from tests.doubles.jobs import sdxl_job
from tests.doubles.waiting import wait_until
from tests.shared.serverless.conftest import SECRET, start_worker

KEY = "canary-service-key"


def test_next_job_generates_while_one_uploads_and_never_shares_the_gpu(tmp_path: Path) -> None:
    with FakeStorage(KEY) as storage:
        environment = {"SUPABASE_URL": storage.url, "SUPABASE_SERVICE_ROLE_KEY": KEY, "JOB_CALLBACK_SECRET": SECRET}
        with start_worker(tmp_path, **environment, JOB_CONCURRENCY="2") as harness:

            def store_once_both_are_generated(upload: Handler) -> None:
                wait_until(lambda: all(map(harness.steps, ("one", "other"))), "the second job waits for the upload of the first")
                upload.store()
                upload.respond(200, b'{"Key": "stored", "Id": "1"}')

            storage.fail(*[store_once_both_are_generated] * 4)
            for job_id in ("one", "other"):
                harness.runpod_api.submit(sdxl_job(job_id))
            for job_id in ("one", "other"):
                assert harness.runpod_api.result(job_id)["output"]["status"] == "completed"
            first, second = sorted(("one", "other"), key=lambda job_id: min(harness.steps(job_id)))
            assert max(harness.steps(first)) < min(harness.steps(second)), "one after the other on the GPU"
            (end_of_first,) = (post.at for post in harness.runpod_api.posts if post.is_result and post.job_id == first)
            assert min(harness.steps(second)) < end_of_first, "the second started before the first was stored"
    assert {key for key in storage.objects if key.endswith("0.png")} == {"user-1/one/0.png", "user-1/other/0.png"}


@pytest.mark.parametrize(("handler", "configured", "expected"), [(SDXL, None, 2), (WAN, None, 1), (SDXL, 1, 1), (WAN, 3, 3)])
def test_sdxl_has_two_jobs_in_flight_and_wan_one_unless_configured(
    handler: ServedHandler[Any], configured: int | None, expected: int
) -> None:
    recipe: Any = None  # it is asked only if it batches jobs itself
    assert handler.concurrency(recipe, Settings(job_concurrency=configured)) == expected


def test_a_default_sdxl_worker_completes_the_next_job_while_one_is_stored(tmp_path: Path, tiny_models: Path) -> None:
    storable = threading.Event()

    def hold(upload: Handler) -> None:
        storable.wait(110)
        upload.store()
        upload.respond(200, b'{"Key": "stored", "Id": "1"}')

    with FakeStorage(KEY) as storage:
        environment = {"SUPABASE_URL": storage.url, "SUPABASE_SERVICE_ROLE_KEY": KEY, "MODELS_DIR": str(tiny_models)}
        with start_worker(tmp_path, "handlers.sdxl.handler", **environment) as harness:
            storage.fail(hold)
            harness.runpod_api.submit(sdxl_job("first"))
            harness.runpod_api.submit(sdxl_job("second"))
            assert harness.runpod_api.result("second")["output"]["status"] == "completed"
            assert harness.runpod_api.results("first") == []
            storable.set()
            assert harness.runpod_api.result("first")["output"]["status"] == "completed"


def test_a_job_that_waits_for_the_gpu_is_cancelled_without_using_it(tmp_path: Path) -> None:
    with start_worker(tmp_path, JOB_CONCURRENCY="3") as harness:
        harness.runpod_api.submit(sdxl_job("computes", "slowly", steps=50))
        harness.wait_for_step("computes")
        harness.runpod_api.submit(sdxl_job("waits"))
        harness.wait_for_validation("waits")
        harness.runpod_api.stop("waits")
        harness.runpod_api.submit(sdxl_job("next"))
        for job_id in ("computes", "next"):
            assert harness.runpod_api.result(job_id)["output"]["status"] == "completed"
        assert harness.steps("waits") == []


def test_long_answers_do_not_delay_a_short_one(tmp_path: Path, tiny_models: Path) -> None:
    with start_worker(tmp_path, "handlers.chat.handler", MODELS_DIR=str(tiny_models), JOB_CONCURRENCY="4") as harness:
        hello = [{"role": "user", "content": "hello"}]
        long = ("long-0", "long-1", "long-2")
        for job_id in long:
            # A penalty below 1 rewards repetition, so that the answer never ends by itself.
            fields = {"max_tokens": 1500, "temperature": 0, "repetition_penalty": 0.5}
            harness.runpod_api.submit({"id": job_id, "input": {"messages": hello, **fields}})
        harness.runpod_api.submit({"id": "short", "input": {"messages": hello, "max_tokens": 5, "temperature": 0}})
        assert all(harness.runpod_api.result(job_id)["output"]["status"] == "completed" for job_id in ("short", *long))
        ends = [post.job_id for post in harness.runpod_api.posts if post.is_result]
        assert ends.index("short") < len(long), "without batching it would have been last"
