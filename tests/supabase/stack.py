"""The whole way of a job on this machine: the Supabase project, and the local gateway with its workers as RunPod."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from playground.gateway.limits import RUN_RETENTION
from tests.doubles.gateway import RunningGateway
from tests.doubles.postgres import PostgresServer
from tests.doubles.supabase_project import RUNPOD_KEY, SupabaseProject, User

LONG_AGO = "submitted_at = submitted_at - interval '5 minutes', checked_at = null, next_attempt_at = next_attempt_at - interval '1 hour'"


class Stack:
    """A project whose functions call the gateway, and workers that call the project back.

    Args:
        postgres: The project's server.
        folder: For the workers' logs.
        models: The workers' models.
        endpoints: The modules that workers run, by endpoint.
    """

    def __init__(self, postgres: PostgresServer, folder: Path, models: Path, endpoints: Mapping[str, str]) -> None:
        self.postgres = postgres
        self.project = SupabaseProject(postgres.new_database())
        variables = self.project.worker_environment(models)
        self.gateway = RunningGateway(folder, endpoints, models=models, key=RUNPOD_KEY, variables=variables)
        self.project.runpod_api_url = self.gateway.url
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.gateway)
        self._stack.enter_context(self.project)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def queue(self, user: User, body: Mapping[str, Any]) -> str:
        """Queues a job and returns its id."""
        answer = user.call("queue-job", body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """Returns the row of a job."""
        (row,) = self.project.database.rows(f"select * from jobs where id = '{job_id}'")
        return row

    def runs(self, job_id: str) -> list[str]:
        """Returns RunPod's ids of a job's attempts, in order."""
        job = self.job(job_id)
        return [*job["earlier_runpod_ids"], *filter(None, [job["runpod_id"]])]

    def input(self, run: str, endpoint: str = "sdxl") -> dict[str, Any]:
        """Returns the input of a run."""
        sent: dict[str, Any] = self.gateway.act(endpoint, lambda queue: queue.job(run).request["input"])
        return sent

    def wait_for_status(self, job_id: str, status: str, seconds: float = 300.0) -> None:
        """Waits until a job has a status."""
        self.project.wait_until(f"(select status from jobs where id = '{job_id}') = '{status}'", seconds)

    def wait_for_progress(self, run: str, retries: int = 0) -> None:
        """Waits until a worker reports progress of a run, after so many workers have died over it."""
        self.gateway.wait_for("sdxl", lambda queue: queue.job(run).retries == retries and queue.job(run).output is not None, 300)

    def wait_for_end(self, run: str) -> None:
        """Waits until RunPod has a run's result."""
        self.gateway.wait_for("sdxl", lambda queue: queue.job(run).status.final, 300)

    def forget(self) -> None:
        """Lets so much time pass that RunPod forgets all results."""
        self.gateway.advance(RUN_RETENTION)

    def reconcile(self, job_id: str) -> None:
        """Runs reconcile as if the job had been submitted some minutes ago and its delay were over."""
        self.project.database.execute(f"update jobs set {LONG_AGO} where id = '{job_id}'")
        self.project.as_schedule("reconcile")
