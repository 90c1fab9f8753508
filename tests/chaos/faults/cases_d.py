"""Faults of storage."""

from __future__ import annotations

import json

from tests.chaos.faults.registry import fault
from tests.chaos.faults.world import World, sdxl
from tests.doubles.storage_server import Fault, fails_with, hangs, loses_the_answer, says, truncates_the_answer

HALF_ANSWERS: tuple[Fault, ...] = (loses_the_answer, truncates_the_answer, says(200, b"<html>", "text/html"))
database_stopped = says(400, json.dumps({"statusCode": "500", "error": "Internal", "message": "Internal Server Error"}).encode())


def transient(number: str, world: World, *faults: Fault) -> None:
    """A job that completes although its uploads meet these first."""
    world.storage.fail(*faults)
    output = world.do(sdxl(number))
    assert output["status"] == "completed", output["error_message"]


@fault("F31", "429, 500, 502 as a page, 503, 504, 544, and 400 whose body says 503, 423 or 429", "tried again, by what the body says")
def _(world: World) -> None:
    for status in (429, 500, 503, 504, 544, 423):
        transient(f"F31-{status}", world, fails_with(status), fails_with(status))
    for status in (502, 503):
        transient(f"F31-page-{status}", world, says(status, b"<html>Bad gateway</html>", "text/html"))


@fault("F32", "An upload whose answer is lost, is cut off, or is a page", "one object, whole")
def _(world: World) -> None:
    for index, trouble in enumerate(HALF_ANSWERS):
        transient(f"F32-{index}", world, trouble)
        assert len([key for key in world.storage.objects if f"/F32-{index}/" in key]) == 2


@fault(
    "F33",
    "An upload that is never answered; a type that is refused before it was read, on a connection that then hangs",
    "kept, and delivered later",
)
def _(world: World) -> None:
    world.storage.outage = hangs
    output = world.do(sdxl("F33-hangs"))
    assert output["metadata"].get("error_code") == "UPLOAD_ERROR"
    world.storage.recover()
    world.storage.mime_types = ["image/webp"]
    try:
        refused = world.do(sdxl("F33-early"))
        assert (refused["metadata"].get("error_code"), refused["metadata"].get("retryable")) == ("UPLOAD_ERROR", False)
    finally:
        world.storage.mime_types = None
    pending = [key for failed in (output, refused) for key in failed["metadata"].get("assets_pending", [])]
    assert len(pending) == 4
    assert world.redeliver() == 0
    assert set(pending) <= set(world.storage.objects)


@fault(
    "F34",
    "A wrong key, no bucket, a policy, too large, a type that is not allowed: at the start and in the middle",
    "no start; no retries; the pictures are kept",
)
def _(world: World) -> None:
    for variable, value, word in (("SUPABASE_SERVICE_ROLE_KEY", "wrong", "service key"), ("STORAGE_BUCKET", "nowhere", "bucket")):
        with world.own_worker("paint", **{variable: value}) as worker:
            assert worker.process.wait() == 1
            assert worker.gateway.takes == []
            assert word in worker.process.log
    for status in (401, 403, 404, 413, 415):
        world.storage.outage = fails_with(status)
        output = world.do(sdxl(f"F34-{status}"))
        assert (output["metadata"].get("error_code"), output["metadata"].get("retryable")) == ("UPLOAD_ERROR", False)
        # Of this job alone: what was kept before is tried again meanwhile.
        asked = [request for request in world.storage.requests if f"/F34-{status}/" in request[1]]
        assert 1 <= len(asked) == len(set(asked)) <= 2
        assert output["metadata"].get("assets_pending")
    world.storage.recover()
    assert world.redeliver() == 0


@fault("F35", "Storage is away for all of a job", "the pictures wait in the outbox and are stored and called back later")
def _(world: World) -> None:
    world.storage.outage = fails_with(503)
    output = world.do(sdxl("F35", num_images=3))
    assert output["metadata"].get("error_code") == "UPLOAD_ERROR"
    pending = output["metadata"].get("assets_pending", [])
    assert len(pending) == 6
    world.storage.recover()
    assert world.redeliver() == 0
    assert set(pending) <= set(world.storage.objects)
    assert world.inbox.messages[-1].payload["status"] == "completed"


@fault(
    "F36",
    "The database behind storage stopped, locked or frozen; storage killed in the middle of an upload",
    "tried again; what was there before is whole",
)
def _(world: World) -> None:
    world.do(sdxl("F36"))
    before = dict(world.storage.objects)
    for trouble in (database_stopped, fails_with(544), dies_reading):
        transient("F36", world, trouble)
    assert {key: stored.content for key, stored in before.items()} == {key: world.storage.objects[key].content for key in before}


def dies_reading(handler: object) -> None:
    """Reads half of an upload and is gone."""
    from tests.doubles.storage_server import Handler

    assert isinstance(handler, Handler)
    handler.rfile.read(int(handler.headers["content-length"]) // 2)
    handler.close_connection = True
    handler.connection.close()
