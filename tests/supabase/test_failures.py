"""Failures between submission and assets, with the local gateway as RunPod and a stub worker in its SDK: no job stays open."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator

import pytest

from playground.gateway.jobs import Status
from playground.gateway.limits import MAX_ATTEMPTS
from tests.doubles.postgres import PostgresServer
from tests.doubles.stub_worker import HOLD
from tests.doubles.supabase_project import SupabaseProject, User
from tests.supabase.stack import Stack

pytestmark = pytest.mark.timeout(600)

IMAGE = {"format": "image", "prompt": "a heron", "config": {"width": 64, "height": 64, "steps": 10}}
LONG_IMAGE = IMAGE | {"prompt": "endlessly a heron"}
HELD_IMAGE = IMAGE | {"prompt": "held a heron"}


@pytest.fixture(scope="module")
def stack(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("workers")
    with Stack(postgres, folder, folder, {"sdxl": "tests.doubles.stub_worker"}) as running:
        yield running


@pytest.fixture
def user(stack: Stack) -> User:
    stack.project.on_callback = lambda: None
    return stack.project.new_user()


def kill_every_worker_of(stack: Stack, run: str) -> None:
    """Kills each worker in the middle of a run, until RunPod gives the run up."""
    for attempt in range(MAX_ATTEMPTS):
        stack.wait_for_progress(run, attempt)
        stack.gateway.kill_worker("sdxl")
    stack.wait_for_end(run)


def test_a_job_that_kills_its_workers_is_submitted_again_and_fails_at_its_deadline(stack: Stack, user: User) -> None:
    job_id = stack.queue(user, LONG_IMAGE)
    (first,) = stack.runs(job_id)
    kill_every_worker_of(stack, first)
    stack.reconcile(job_id)
    job = stack.job(job_id)
    assert (job["status"], job["error_code"], job["attempts"]) == ("queued", "INTERNAL_ERROR", 1)
    stack.reconcile(job_id)
    _, second = stack.runs(job_id)
    assert stack.input(first) == stack.input(second)
    stack.wait_for_progress(second)
    stack.project.database.execute(f"update jobs set deadline = now() where id = '{job_id}'")
    stack.reconcile(job_id)
    job = stack.job(job_id)
    assert (job["status"], job["error_code"], job["attempts"]) == ("failed", "DEADLINE_EXCEEDED", 2)
    assert stack.gateway.act("sdxl", lambda queue: queue.job(second).status) is Status.CANCELLED


@pytest.mark.parametrize("status", [200, 401], ids=["lost", "refused"])
@pytest.mark.parametrize("forgotten", [False, True], ids=["runpod-knows-the-result", "runpod-has-forgotten-it"])
def test_a_callback_that_does_not_arrive_is_made_up_for(stack: Stack, user: User, status: int, forgotten: bool) -> None:
    stack.project.on_callback = lambda: status
    job_id = stack.queue(user, IMAGE)
    (run,) = stack.runs(job_id)
    stack.wait_for_end(run)
    if forgotten:
        stack.forget()
    assert stack.job(job_id)["status"] == "queued"
    stack.reconcile(job_id)
    assert stack.job(job_id)["status"] == "completed"
    assert len(user.rows("select * from workspace_assets")) == 1


def test_a_database_that_restarts_in_mid_callback_loses_nothing(stack: Stack, user: User) -> None:
    answered = len(stack.project.callbacks)
    hold = stack.gateway.logs / HOLD
    hold.touch()
    job_id = stack.queue(user, HELD_IMAGE)
    stack.wait_for_status(job_id, "processing")
    lock = f"begin; select 1 from jobs where id = '{job_id}' for update; select pg_sleep(600)"
    blocking = subprocess.Popen(
        ["psql", "-Xq", stack.project.database.url, "-c", lock], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    stack.project.wait_until("exists (select from pg_stat_activity where wait_event = 'PgSleep')")
    hold.unlink()
    waits = "exists (select from pg_stat_activity where wait_event_type = 'Lock' and query like '%settle_job%' and pid <> pg_backend_pid())"
    stack.project.wait_until(waits)
    stack.postgres.stop()
    blocking.wait(60)
    stack.postgres.start()
    stack.wait_for_status(job_id, "completed")
    assert len(user.rows("select * from workspace_assets")) == 1
    assert [status for status in stack.project.callbacks[answered:] if status >= 500]


def test_submissions_of_one_id_at_once_run_once(stack: Stack, user: User) -> None:
    def accepted() -> int:
        return sum(stack.gateway.act("sdxl", lambda queue: queue.health())["jobs"].values())

    before = accepted()
    body = IMAGE | {"id": "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"}
    threads = [threading.Thread(target=user.call, args=("queue-job", body)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stack.wait_for_status(str(body["id"]), "completed")
    assert accepted() - before == 1


def test_a_job_fails_at_once_and_may_be_repeated_if_runpod_is_away(postgres: PostgresServer) -> None:
    project = SupabaseProject(postgres.new_database())
    project.runpod_api_url = "http://127.0.0.1:1/v2"
    with project:
        answer = project.new_user().call("queue-job", IMAGE)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "QUEUE_UNAVAILABLE")
        (job,) = project.database.rows("select status, error_code, retryable from jobs")
    assert job == {"status": "failed", "error_code": "QUEUE_UNAVAILABLE", "retryable": True}
