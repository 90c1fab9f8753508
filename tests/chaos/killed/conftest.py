"""A world whose workers are killed, and what must hold then."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from shared.jobs.delivery.outbox_entry import MANIFEST, read_entry
from tests.chaos.faults.invariants import Before, check
from tests.chaos.faults.payloads import files_of, is_whole
from tests.chaos.faults.running import Running
from tests.chaos.faults.world import World, chat, sdxl, wan


class Mortals:
    """A world, and one living worker of each handler at a time. Who comes after a killed one will be the next to be killed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._stack = ExitStack()
        self._living: dict[str, Running] = {}

    def close(self) -> None:
        self._stack.close()
        self.world.close()

    def living(self, handler: str) -> Running:
        """A worker that lives; the one from before, or a new one."""
        running = self._living.get(handler)
        if running is None or running.process.process.poll() is not None:
            running = self._living[handler] = self._stack.enter_context(self.world.own_worker(handler))
        return running

    def job(self, handler: str, job_id: str, *, several: bool = False) -> dict[str, Any]:
        """A job that is the same whenever it is done."""
        if handler == "chat":
            return chat(job_id, self.world.inbox.url, max_tokens=20)
        return wan(job_id) if handler == "wan" else sdxl(job_id, num_images=3 if several else 1)

    def stored(self, job_id: str) -> dict[str, str]:
        """The SHA-256 of what is stored of a job, by its name. `callback.json` names the job, and when it ended."""
        objects = dict(self.world.storage.objects)
        names = {key: key.rpartition("/")[2] for key in objects if f"/{job_id}/" in key}
        return {name: hashlib.sha256(objects[key].content).hexdigest() for key, name in names.items() if name != "callback.json"}

    def died(self, victim: Running) -> None:
        """Waits for the end of a worker that was killed."""
        assert victim.process.wait(60) == -signal.SIGKILL
        self.world.calm()

    def names_only_what_is_whole(self, job_id: str) -> None:
        """Whatever says that the job was completed names files that are there, byte for byte."""
        world = self.world
        said = [payload for payload in world.inbox.payloads if payload["job_id"] == job_id]
        said += [json.loads(stored.content) for key, stored in world.storage.objects.items() if key.endswith(f"/{job_id}/callback.json")]
        for payload in said:
            if payload["status"] == "completed":
                assert all(is_whole(world, key, size) for key, size in files_of(payload))
        for folder in [path for path in world.outbox.glob("*") if path.suffix != ".part" and (path / MANIFEST).is_file()]:
            kept = read_entry(folder)
            assert kept is not None, "an entry that says that it is complete is"
            waiting = {file.key for file in kept.files}
            payload = json.loads(kept.payload)
            assert all(key in waiting or is_whole(world, key, size) for key, size in files_of(payload))

    def is_done_again(self, job: dict[str, Any], handler: str) -> None:
        """Another worker does the job that was in hand: the same files, under the same ids, and nothing stays behind."""
        before = self.stored(job["id"])
        running = self.living(handler)
        level = Before(running)
        output = running.do(job)
        assert output["status"] == "completed", output["error_message"]
        check(self.world, [level])
        after = self.stored(job["id"])
        assert before.items() <= after.items(), "what was there already is what is there now"
        twin = {**job, "id": f"{job['id']}-twin", "input": {**job["input"], "id": f"{job['id']}-twin"}}
        again = running.do(twin)
        assert after == self.stored(twin["id"]), "the files of a job whose worker lived"
        assert [asset.get("content") for asset in output["assets"]] == [asset.get("content") for asset in again["assets"]]
        self.was_told_under_one_id(job["id"])
        self.nothing_waits()

    def nothing_waits(self) -> None:
        """Nothing is in the outbox, but perhaps what was never complete: who wrote it might live. After a day it is cleared away."""
        left = list(self.world.outbox.glob("*"))
        assert all(path.suffix == ".part" for path in left)
        for path in left:
            os.utime(path, (0, 0))
        if left:
            assert self.world.redeliver() == 0
            assert list(self.world.outbox.glob("*")) == []

    def was_told_under_one_id(self, job_id: str) -> None:
        told = [message for message in self.world.inbox.messages if message.payload["job_id"] == job_id]
        completed = {message.headers["webhook-id"] for message in told if message.payload["status"] == "completed"}
        assert completed == {f"{job_id}_completed"}
        assert all(message.verified for message in told)


@pytest.fixture(scope="module")
def mortals(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Mortals]:
    environment = {"STORE_CALLBACK": "true", "CALLBACK_PROCESSING": "true", "UPLOAD_DEADLINE": "3"}
    around = Mortals(World(tmp_path_factory.mktemp("world"), tiny_models, environment))
    yield around
    around.close()
