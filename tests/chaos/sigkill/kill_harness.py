"""Harness for workers that are killed by SIGKILL, and assertions about what they leave behind."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from shared.jobs.delivery.outbox_entry import MANIFEST, open_entry
from shared.jobs.delivery.outbox_keys import EntryKeys
from tests.chaos.fault_injection.harness import CALLBACK_SECRET, Harness, chat, sdxl, wan
from tests.chaos.fault_injection.invariants import Baseline, check_invariants
from tests.chaos.fault_injection.payloads import is_intact, named_files
from tests.chaos.fault_injection.worker_handle import WorkerHandle
from tests.doubles.jobs import webhook_id


class KillHarness(Harness):
    """A harness with one live worker per handler. After a kill, the next test starts another."""

    def __init__(self, folder: Path, models: Path, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, models, environment)
        self._live: dict[str, WorkerHandle] = {}

    def live_worker(self, handler: str) -> WorkerHandle:
        """Returns the running worker of a handler, or starts one."""
        worker = self._live.get(handler)
        if worker is None or not worker.is_running:
            worker = self._live[handler] = self._stack.enter_context(self.dedicated_worker(handler))
        return worker

    def make_job(self, handler: str, job_id: str, *, multiple_images: bool = False) -> dict[str, Any]:
        """Returns a deterministic job: every run of it makes the same files."""
        if handler == "chat":
            return chat(job_id, self.receiver.url, max_tokens=20)
        return wan(job_id) if handler == "wan" else sdxl(job_id, num_images=3 if multiple_images else 1)

    def stored_hashes(self, job_id: str) -> dict[str, str]:
        """Returns the SHA-256 of each stored file of a job by file name, without `callback.json`, which contains the job's id and time."""
        objects = dict(self.storage.objects)
        names = {key: key.rpartition("/")[2] for key in objects if f"/{job_id}/" in key}
        return {name: hashlib.sha256(objects[key].content).hexdigest() for key, name in names.items() if name != "callback.json"}

    def wait_until_killed(self, worker: WorkerHandle) -> None:
        """Waits for a worker to die of SIGKILL, and clears the faults."""
        assert worker.process.wait(60) == -signal.SIGKILL
        self.clear_faults()

    def assert_named_files_intact(self, job_id: str) -> None:
        """Asserts that every file of a job that a callback, `callback.json` or an outbox entry names is complete."""
        payloads = [payload for payload in self.receiver.payloads if payload["job_id"] == job_id]
        payloads += [json.loads(stored.content) for key, stored in self.storage.objects.items() if key.endswith(f"/{job_id}/callback.json")]
        for payload in payloads:
            if payload["status"] == "completed":
                assert all(is_intact(self, key, size) for key, size in named_files(payload))
        for folder in [path for path in self.outbox.glob("*") if path.suffix != ".part" and (path / MANIFEST).is_file()]:
            with open_entry(folder, EntryKeys([SecretStr(CALLBACK_SECRET)])) as entry:  # raises an error if it is not complete
                entry.check_files()
                pending = {file.key for file in entry.manifest.files}
                payload = json.loads(entry.manifest.payload)
            assert all(key in pending or is_intact(self, key, size) for key, size in named_files(payload))

    def assert_redelivered_job_completes(self, job: dict[str, Any], handler: str) -> None:
        """Runs a job again in another worker, and asserts that it makes the same files under the same ids and leaves nothing behind."""
        before = self.stored_hashes(job["id"])
        worker = self.live_worker(handler)
        baseline = Baseline(worker)
        output = worker.run_job(job)
        assert output["status"] == "completed", output["error_message"]
        check_invariants(self, [baseline])
        after = self.stored_hashes(job["id"])
        assert before.items() <= after.items(), "files of the killed worker are unchanged"
        twin = {**job, "id": f"{job['id']}-twin", "input": {**job["input"], "id": f"{job['id']}-twin"}}
        twin_output = worker.run_job(twin)
        assert after == self.stored_hashes(twin["id"]), "the files equal those of a job without a kill"
        assert [asset.get("content") for asset in output["assets"]] == [asset.get("content") for asset in twin_output["assets"]]
        self.assert_one_webhook_id(job["id"])
        self.assert_outbox_empty()

    def assert_outbox_empty(self) -> None:
        """Asserts that the outbox has no entries but incomplete ones, which are deleted after a day: another worker may be writing them."""
        incomplete = list(self.outbox.glob("*"))
        assert all(path.suffix == ".part" for path in incomplete)
        for path in incomplete:
            os.utime(path, (0, 0))
        if incomplete:
            assert self.redeliver() == 0
            assert list(self.outbox.glob("*")) == []

    def assert_one_webhook_id(self, job_id: str) -> None:
        """Asserts that all `completed` callbacks of a job have the same `webhook-id`, and that all callbacks are signed."""
        callbacks = [message for message in self.receiver.messages if message.payload["job_id"] == job_id]
        completed = {message.headers["webhook-id"] for message in callbacks if message.payload["status"] == "completed"}
        assert completed == {webhook_id(job_id, "completed")}
        assert all(message.verified for message in callbacks)
