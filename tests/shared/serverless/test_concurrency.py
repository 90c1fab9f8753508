"""Several jobs in hand: one computes while another uploads, and the GPU does one at a time."""

from __future__ import annotations

import time
from pathlib import Path

from tests.doubles.fake_storage import FakeStorage, Handler
from tests.doubles.jobs import sdxl_job
from tests.shared.serverless.conftest import SECRET, started

KEY = "canary-service-key"


def takes_a_second(upload: Handler) -> None:
    """Stores after a second."""
    time.sleep(1.0)
    upload.store()
    upload.respond(200, b'{"Key": "stored", "Id": "1"}')


def test_next_job_generates_while_one_uploads_and_never_shares_the_gpu(tmp_path: Path) -> None:
    with FakeStorage(KEY) as storage:
        environment = {"SUPABASE_URL": storage.url, "SUPABASE_SERVICE_ROLE_KEY": KEY, "JOB_CALLBACK_SECRET": SECRET}
        with started(tmp_path, **environment, JOB_CONCURRENCY="2") as loop:
            storage.fail(*[takes_a_second] * 4)
            for job_id in ("one", "other"):
                loop.runpod_api.submit(sdxl_job(job_id))
            for job_id in ("one", "other"):
                assert loop.runpod_api.result(job_id)["output"]["status"] == "completed"
            first, second = sorted(("one", "other"), key=lambda job_id: min(loop.steps(job_id)))
            assert max(loop.steps(first)) < min(loop.steps(second)), "one after the other on the GPU"
            (end_of_first,) = (post.at for post in loop.runpod_api.posts if post.is_result and post.job_id == first)
            assert min(loop.steps(second)) < end_of_first, "the second began before the first was stored"
    assert {key for key in storage.objects if key.endswith("0.png")} == {"user-1/one/0.png", "user-1/other/0.png"}


def test_long_answers_do_not_delay_a_short_one(tmp_path: Path, tiny_models: Path) -> None:
    with started(tmp_path, "handlers.chat.handler", MODELS_DIR=str(tiny_models), JOB_CONCURRENCY="4") as loop:
        hello = [{"role": "user", "content": "hello"}]
        long = ("long-0", "long-1", "long-2")
        for job_id in long:
            # Words that are there are made likelier, so that it goes on and on.
            fields = {"max_tokens": 500, "temperature": 0, "repetition_penalty": 0.5}
            loop.runpod_api.submit({"id": job_id, "input": {"messages": hello, **fields}})
        loop.runpod_api.submit({"id": "short", "input": {"messages": hello, "max_tokens": 5, "temperature": 0}})
        assert all(loop.runpod_api.result(job_id)["output"]["status"] == "completed" for job_id in ("short", *long))
        ends = [post.job_id for post in loop.runpod_api.posts if post.is_result]
        assert ends.index("short") < len(long), "one thread would have done it last"
