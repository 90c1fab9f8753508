"""A user's jobs from submission to assets: edge functions, database, RunPod's SDK and the handlers, and the failures between them."""

from __future__ import annotations

import io
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.doubles.fake_runpod import FakeRunPodAPI
from tests.doubles.postgres import PostgresServer
from tests.doubles.runpod_endpoints import RunPodEndpoints
from tests.doubles.supabase_project import SupabaseProject, User
from tests.doubles.worker import WorkerProcess

pytestmark = pytest.mark.timeout(600)

SMALL_IMAGE = {"format": "image", "prompt": "a heron over a bay", "config": {"width": 64, "height": 64, "steps": 10}}
LONG_IMAGE = SMALL_IMAGE | {"config": {"width": 256, "height": 256, "steps": 50}}


class Stack:
    """RunPod, the project, and workers that start with their first job."""

    def __init__(self, postgres: PostgresServer, folder: Path, models: Path) -> None:
        self._stack = ExitStack()
        self._folder, self._models = folder, models
        self.postgres = postgres
        self.apis = {name: self._stack.enter_context(FakeRunPodAPI()) for name in ("sdxl", "wan", "chat")}
        self.runpod = self._stack.enter_context(RunPodEndpoints(self.apis))
        self.project = self._stack.enter_context(SupabaseProject(postgres.new_database(), self.runpod.api))
        self._workers: dict[str, WorkerProcess] = {}

    def close(self) -> None:
        """Stops everything."""
        self._stack.close()

    def worker(self, handler: str) -> WorkerProcess:
        """Returns the running worker of a handler, or starts one."""
        if handler not in self._workers:
            folder = self._folder / f"{handler}-{len(list(self._folder.iterdir()))}"
            folder.mkdir()
            environment = self.project.worker_environment(self._models)
            process = WorkerProcess(f"handlers.{handler}.handler", self.apis[handler], folder, environment)
            self._workers[handler] = self._stack.enter_context(process)
        return self._workers[handler]

    def kill_worker(self, handler: str) -> None:
        """Kills a worker. The next job starts another."""
        self._workers.pop(handler).kill()

    def queue(self, user: User, body: dict[str, Any]) -> dict[str, Any]:
        """Queues a job and returns the answer."""
        answer = user.call("queue-job", body)
        assert answer.status_code == 202, answer.text
        described: dict[str, Any] = answer.json()
        return described

    def wait_for_status(self, job_id: str, status: str, seconds: float = 300.0) -> None:
        """Waits until a job has a status."""
        self.project.wait_until(f"(select status from jobs where id = '{job_id}') = '{status}'", seconds)

    def start_long_job(self, user: User) -> tuple[str, str]:
        """Queues a job, waits until its worker is in the middle of it, and returns the job's id and RunPod's."""
        job_id = self.queue(user, LONG_IMAGE)["job_id"]
        run = self.runpod.runs[job_id][-1]
        api = self.apis["sdxl"]
        api.wait_for(lambda: bool(api.progress(run)), 300, what="the worker's progress")
        return job_id, run

    def reconcile(self, job_id: str) -> None:
        """Runs reconcile as if the job had been submitted some minutes ago and its delay were over."""
        long_ago = (
            "submitted_at = submitted_at - interval '5 minutes', checked_at = null, next_attempt_at = next_attempt_at - interval '1 hour'"
        )
        self.project.database.execute(f"update jobs set {long_ago} where id = '{job_id}'")
        self.project.as_schedule("reconcile")


@pytest.fixture(scope="module")
def stack(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Stack]:
    running = Stack(postgres, tmp_path_factory.mktemp("workers"), tiny_models)
    yield running
    running.close()


@pytest.fixture
def user(stack: Stack) -> User:
    stack.worker("sdxl")
    stack.project.on_callback = lambda: None
    return stack.project.new_user()


def test_an_enhanced_batch_a_clip_with_a_first_frame_and_a_chat_arrive(stack: Stack, user: User) -> None:
    stack.worker("wan"), stack.worker("chat")
    # A tiny model enhances by writing words at random.
    stack.project.database.execute("update tiers set allows_adult_content = true")
    frame = io.BytesIO()
    Image.new("RGB", (80, 60), (200, 40, 40)).save(frame, "png")
    first_frame = user.upload("frame.png", frame.getvalue(), "image/png")
    small_clip = {"width": 64, "height": 64, "steps": 2}
    jobs = {
        "batch": stack.queue(user, SMALL_IMAGE | {"enhance": "instruct", "quantity": 3}),
        "clip": stack.queue(
            user, {"format": "video", "prompt": "it takes off", "duration": 0.25, "first_frame": first_frame, "config": small_clip}
        ),
        "chat": stack.queue(user, {"format": "text", "messages": [{"role": "user", "content": "Name a bird."}], "max_tokens": 8}),
    }
    for job in jobs.values():
        stack.wait_for_status(job["job_id"], "completed")
    batch, clip, chat = (user.call("job-status", {"job_id": job["job_id"]}).json() for job in jobs.values())
    assert batch["enhanced_prompt"] not in (None, SMALL_IMAGE["prompt"])
    assert stack.runpod.inputs[stack.runpod.runs[batch["job_id"]][0]]["prompt"] == batch["enhanced_prompt"]
    seed = stack.runpod.inputs[stack.runpod.runs[batch["job_id"]][0]]["config"]["seed"]
    assert [asset["generation_seed"] for asset in batch["assets"]] == [seed, seed + 1, seed + 2]
    assert [(asset["width"], asset["height"], asset["mime_type"]) for asset in batch["assets"]] == [(64, 64, "image/png")] * 3
    assert clip["assets"][0]["duration_seconds"] == pytest.approx(5 / 16, abs=0.001)
    assert chat["assets"][0]["content"] is not None
    for asset in batch["assets"] + clip["assets"]:
        assert len(stack.project.workspace.objects[asset["temp_storage_path"]].content) == asset["file_size_bytes"]
        assert asset["url"].startswith(stack.project.url)
        assert asset["thumbnail_url"] is not None


def test_the_rows_are_complete_for_their_owner_and_invisible_to_another_user(stack: Stack, user: User) -> None:
    job_id = stack.queue(user, SMALL_IMAGE)["job_id"]
    stack.wait_for_status(job_id, "completed")
    other = stack.project.new_user()
    for table in ("jobs", "workspace_assets"):
        assert len(user.rows(f"select * from {table}")) == 1
        assert other.rows(f"select * from {table}") == []
    assert other.call("job-status", {"job_id": job_id}).status_code == 404
    (job,) = user.rows("select * from jobs")
    assert job["started_at"] < job["completed_at"]
    assert job["runpod_id"] == job["result"]["runpod_id"] == stack.runpod.runs[job_id][0]
    (asset,) = user.rows("select * from workspace_assets")
    optional = {"content", "duration_seconds"}
    assert {name for name, value in asset.items() if value is None} == optional


def test_a_job_is_cancelled_in_mid_step_and_the_worker_goes_on_with_the_next(stack: Stack, user: User) -> None:
    job_id, _ = stack.start_long_job(user)
    answer = user.call("cancel-job", {"job_id": job_id}).json()
    assert (answer["status"], answer["worker_stopped"]) == ("cancelled", True)
    following = stack.queue(user, SMALL_IMAGE)["job_id"]
    stack.wait_for_status(following, "completed")
    (job,) = stack.project.database.rows(f"select status, error_code from jobs where id = '{job_id}'")
    assert job == {"status": "cancelled", "error_code": None}


def test_a_worker_killed_in_mid_job_leads_to_a_completed_job(stack: Stack, user: User) -> None:
    job_id, run = stack.start_long_job(user)
    stack.kill_worker("sdxl")
    stack.runpod.lose_worker(run)
    stack.reconcile(job_id)
    (job,) = stack.project.database.rows(f"select status, error_code, attempts from jobs where id = '{job_id}'")
    assert job == {"status": "queued", "error_code": "INTERNAL_ERROR", "attempts": 1}
    stack.worker("sdxl")
    stack.reconcile(job_id)
    stack.wait_for_status(job_id, "completed")
    first, second = (stack.runpod.inputs[each] for each in stack.runpod.runs[job_id])
    assert first == second


@pytest.mark.parametrize("forgotten", [False, True], ids=["runpod-knows-the-result", "runpod-has-forgotten-it"])
def test_a_refused_callback_is_made_up_for(stack: Stack, user: User, forgotten: bool) -> None:
    stack.project.on_callback = lambda: 401
    job_id = stack.queue(user, SMALL_IMAGE)["job_id"]
    (run,) = stack.runpod.runs[job_id]
    stack.apis["sdxl"].result(run, 300)
    key = f"{user.id}/{job_id}/callback.json"
    assert key in stack.project.workspace.objects
    if forgotten:
        stack.runpod.forget(run)
    stack.reconcile(job_id)
    stack.wait_for_status(job_id, "completed", 1)
    assert len(user.rows("select * from workspace_assets")) == 1


def test_a_database_that_restarts_in_mid_callback_loses_nothing(stack: Stack, user: User) -> None:
    answered = len(stack.project.callbacks)
    job_id = stack.queue(user, SMALL_IMAGE)["job_id"]
    stack.wait_for_status(job_id, "processing")
    lock = f"begin; select 1 from jobs where id = '{job_id}' for update; select pg_sleep(60)"
    blocking = subprocess.Popen(
        ["psql", "-Xq", stack.project.database.url, "-c", lock], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    waits = "exists (select from pg_stat_activity where wait_event_type = 'Lock' and query like '%settle_job%' and pid <> pg_backend_pid())"
    stack.project.wait_until(waits)
    stack.postgres.stop()
    blocking.wait(10)
    stack.postgres.start()
    stack.wait_for_status(job_id, "completed")
    assert len(user.rows("select * from workspace_assets")) == 1
    assert [status for status in stack.project.callbacks[answered:] if status >= 500]


def test_submissions_of_one_id_at_once_run_once(stack: Stack, user: User) -> None:
    body = SMALL_IMAGE | {"id": "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"}
    threads = [threading.Thread(target=user.call, args=("queue-job", body)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stack.wait_for_status(str(body["id"]), "completed")
    assert len(stack.runpod.runs[str(body["id"])]) == 1
