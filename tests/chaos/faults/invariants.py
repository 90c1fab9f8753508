"""What must hold after every case: S1 … S8."""

from __future__ import annotations

import hashlib
import json
import time

from shared.contract.callback import FailedPayload
from shared.network import is_public
from tests.chaos.faults.running import Done, Running
from tests.chaos.faults.world import World, sdxl, wan

HOLDS = {
    "S1": "The job is answered: strict JSON with its id, `completed` or `failed`, and when failed a code of the table and one sentence.",
    "S2": "It ended once: the receiver was told what RunPod was told, under one `webhook-id`, or the body waits in the outbox.",
    "S3": "What the payload names is stored, byte for byte, and nothing lies outside `{user_id}/{job_id}/`.",
    "S4": "The worker lives and does the next job well, or has ended by itself with a code that is not 0.",
    "S5": "No key, secret, token or prompt is in the log, in an answer, in a callback or in the outbox; no traceback either.",
    "S6": "It connected to its own gateway, storage and receiver, and to nothing else.",
    "S7": "What was refused cost no work; everything else ended by its deadline.",
    "S8": "No temporary file, no open file and no memory stays behind.",
}
"""The sentences of `docs/reliability.md`."""

_CANARIES = ("canary", "Traceback")  # every secret of these tests is called so
_FILES_SLACK = 6  # a pool of threads may keep some
_MEMORY_SLACK = 200 * 2**20


class Before:
    """What a worker held before a case."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.files = running.files_open
        self.memory = running.memory()
        self.done = len(running.done)


def check(world: World, before: list[Before]) -> None:
    """Asserts S1 … S8 for everything that was done since `before`, by shared workers and by those of the case."""
    world.settle()
    for held in before:
        _well_done(world, held.running, held.running.done[held.done :])
        _left_nothing(held)
    for running in world.take_ended():
        _well_done(world, running, running.done)


def _well_done(world: World, running: Running, jobs: list[Done]) -> None:
    for done in jobs:
        _answered(done)
        _ended_once(world, done)
        _stored(world, done)
        _worked_only_if_it_should(done)
    _connected_only_where_it_may(world, running)
    _kept_quiet(world, running)


def good_job(world: World, handler: str, number: str) -> None:
    """S4: a job as on any other day, in the same process."""
    running = world.worker(handler)
    assert running.process.process.poll() is None, "the worker is gone"
    job = (wan if handler == "wan" else sdxl)(f"{number}-then-a-good-one")
    output = running.do(job)
    assert output["status"] == "completed", output["error_message"]
    _answered(running.done[-1])
    _ended_once(world, running.done[-1])
    _stored(world, running.done[-1])


def _answered(done: Done) -> None:
    body, output = done.body, done.output
    assert json.dumps(body, allow_nan=False)
    assert output["status"] in {"completed", "failed"}
    assert output["job_id"]
    if output["status"] == "failed":
        bare = {name: value for name, value in output.items() if name != "callback_pending"}
        FailedPayload.model_validate_json(json.dumps(bare))
        assert body["error"] == output["error_message"]
        assert "\n" not in output["error_message"]


def _ended_once(world: World, done: Done) -> None:
    output = {name: value for name, value in done.output.items() if name != "callback_pending"}
    job_id = output["job_id"]
    # Looked for first: another worker may deliver it before the next line.
    waiting = any(json.loads(entry)["job_id"] == job_id for entry in world.waiting())
    told = [message for message in world.inbox.messages if message.payload["job_id"] == job_id]
    assert all(message.verified for message in told)
    if done.output.get("callback_pending") and waiting:
        return
    assert output in [message.payload for message in told]
    assert len({message.headers["webhook-id"] for message in told if message.payload["status"] == output["status"]}) == 1


def _stored(world: World, done: Done) -> None:
    for asset in done.output["assets"]:
        if asset["type"] == "text":
            continue
        for key in (asset["url"], asset["thumbnail_url"]):
            stored = world.storage.objects[key]
            assert stored.metadata["sha256"] == hashlib.sha256(stored.content).hexdigest()
        assert asset["file_size_bytes"] == len(world.storage.objects[asset["url"]].content)
    mine = [key for key in world.storage.objects if done.output["job_id"] in key]
    assert all(key.startswith(f"user-1/{done.output['job_id']}/") for key in mine)
    assert all(key.startswith("user-1/") for key in world.storage.objects), "somebody else's folder"


def _worked_only_if_it_should(done: Done) -> None:
    if done.refused:
        assert done.output["status"] == "failed"
        assert done.output["metadata"]["timings"]["generate"] == 0.0


def _connected_only_where_it_may(world: World, running: Running) -> None:
    allowed = {f"127.0.0.1 {url.rpartition(':')[2].partition('/')[0]}" for url in (world.storage.url, world.inbox.url, running.gateway.url)}
    # A public address was judged and may be contacted.
    assert [line for line in running.connections if line not in allowed and not is_public(line.split()[0])] == []


def _left_nothing(held: Before) -> None:
    running = held.running
    if running.process.process.poll() is not None:
        return
    assert list(running.temporary.iterdir()) == []
    ends = time.monotonic() + 10
    while running.files_open > held.files + _FILES_SLACK:
        assert time.monotonic() < ends, f"{running.files_open} files are open, and {held.files} were"
        time.sleep(0.1)
    assert running.memory() < held.memory + _MEMORY_SLACK


def _kept_quiet(world: World, running: Running) -> None:
    said: list[str] = [running.process.log, json.dumps([done.body for done in running.done])]
    said += [message.body.decode() for message in world.inbox.messages]
    said += world.waiting()
    for canary in _CANARIES:
        assert not [text for text in said if canary in text], f"{canary} was said"
