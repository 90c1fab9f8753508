"""A user's jobs from submission to assets: edge functions, database, the local gateway, RunPod's SDK and the handlers on tiny models."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from playground.gateway.jobs import Status
from tests.doubles.postgres import PostgresServer
from tests.doubles.supabase_project import User
from tests.supabase.stack import Stack

pytestmark = pytest.mark.timeout(600)

SMALL_IMAGE = {"format": "image", "prompt": "a heron over a bay", "config": {"width": 64, "height": 64, "steps": 10}}
LONG_IMAGE = SMALL_IMAGE | {"config": {"width": 256, "height": 256, "steps": 50}}


@pytest.fixture(scope="module")
def stack(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Stack]:
    endpoints = {name: f"handlers.{name}.handler" for name in ("sdxl", "wan", "chat")}
    with Stack(postgres, tmp_path_factory.mktemp("workers"), tiny_models, endpoints) as running:
        yield running


@pytest.fixture
def user(stack: Stack) -> User:
    return stack.project.new_user()


def start_long_job(stack: Stack, user: User) -> tuple[str, str]:
    """Queues a job, waits until its worker is in the middle of it, and returns the job's id and RunPod's."""
    job_id = stack.queue(user, LONG_IMAGE)
    (run,) = stack.runs(job_id)
    stack.wait_for_progress(run)
    return job_id, run


def test_an_enhanced_batch_a_clip_with_a_first_frame_a_still_and_texts_arrive(stack: Stack, user: User) -> None:
    # A tiny model enhances by writing words at random.
    stack.project.database.execute("update tiers set allows_adult_content = true")
    frame = io.BytesIO()
    Image.new("RGB", (80, 60), (200, 40, 40)).save(frame, "png")
    first_frame = user.upload("frame.png", frame.getvalue(), "image/png")
    small = {"prompt": "it takes off", "config": {"width": 64, "height": 64, "steps": 2}}
    jobs = [
        stack.queue(user, SMALL_IMAGE | {"enhance": "instruct", "quantity": 3}),
        stack.queue(user, small | {"format": "video", "duration": 0.25, "first_frame": first_frame}),
        stack.queue(user, small | {"format": "image", "model": "wan"}),
        stack.queue(user, {"format": "text", "messages": [{"role": "user", "content": "Name a bird."}], "max_tokens": 8}),
        stack.queue(user, {"format": "text", "prompt": "a heron", "enhance": "base"}),
    ]
    for job_id in jobs:
        stack.wait_for_status(job_id, "completed")
    batch, clip, still, chat, enhanced = (user.call("job-status", {"job_id": job_id}).json() for job_id in jobs)
    assert batch["enhanced_prompt"] not in (None, SMALL_IMAGE["prompt"])
    sent = stack.input(*stack.runs(batch["job_id"]))
    assert sent["prompt"] == batch["enhanced_prompt"]
    seed = sent["config"]["seed"]
    assert [asset["generation_seed"] for asset in batch["assets"]] == [seed, seed + 1, seed + 2]
    assert [(asset["width"], asset["height"], asset["mime_type"]) for asset in batch["assets"]] == [(64, 64, "image/png")] * 3
    assert clip["assets"][0]["duration_seconds"] == pytest.approx(5 / 16, abs=0.001)
    assert [(asset["width"], asset["height"], asset["mime_type"]) for asset in still["assets"]] == [(64, 64, "image/png")]
    assert all(job["assets"][0]["content"] is not None for job in (chat, enhanced))
    for asset in batch["assets"] + clip["assets"] + still["assets"]:
        assert len(stack.project.workspace.objects[asset["temp_storage_path"]].content) == asset["file_size_bytes"]
        assert asset["url"].startswith(stack.project.url)
        assert asset["thumbnail_url"] is not None


def test_the_rows_are_complete_for_their_owner_and_invisible_to_another_user(stack: Stack, user: User) -> None:
    job_id = stack.queue(user, SMALL_IMAGE)
    stack.wait_for_status(job_id, "completed")
    other = stack.project.new_user()
    for table in ("jobs", "workspace_assets"):
        assert len(user.rows(f"select * from {table}")) == 1
        assert other.rows(f"select * from {table}") == []
    assert other.call("job-status", {"job_id": job_id}).status_code == 404
    (job,) = user.rows("select * from jobs")
    assert job["started_at"] < job["completed_at"]
    assert [job["runpod_id"]] == [job["result"]["runpod_id"]] == stack.runs(job_id)
    (asset,) = user.rows("select * from workspace_assets")
    optional = {"content", "duration_seconds"}
    assert {name for name, value in asset.items() if value is None} == optional


def test_a_job_is_cancelled_in_mid_step_and_the_worker_goes_on_with_the_next(stack: Stack, user: User) -> None:
    job_id, run = start_long_job(stack, user)
    answer = user.call("cancel-job", {"job_id": job_id}).json()
    assert (answer["status"], answer["worker_stopped"]) == ("cancelled", True)
    assert stack.gateway.act("sdxl", lambda queue: queue.job(run).status) is Status.CANCELLED
    following = stack.queue(user, SMALL_IMAGE)
    stack.wait_for_status(following, "completed")
    job = stack.job(job_id)
    assert (job["status"], job["error_code"], job["result"]) == ("cancelled", None, None)


def test_a_worker_killed_in_mid_job_leads_to_a_completed_job(stack: Stack, user: User) -> None:
    job_id, run = start_long_job(stack, user)
    stack.gateway.kill_worker("sdxl")
    stack.wait_for_status(job_id, "completed")
    assert stack.gateway.act("sdxl", lambda queue: queue.job(run).retries) == 1
    assert len(user.rows("select * from workspace_assets")) == 1
