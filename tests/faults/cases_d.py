"""Faults of storage."""

from __future__ import annotations

from tests.doubles.storage_server import fails_with
from tests.faults.registry import fault
from tests.faults.world import World, sdxl


@fault("F35", "Storage is away for all of a job", "the pictures wait in the outbox and are stored and called back later")
def _(world: World) -> None:
    world.storage.outage = fails_with(503)
    output = world.do(sdxl("F35", num_images=3))
    assert output["metadata"]["error_code"] == "UPLOAD_ERROR"
    pending = output["metadata"]["assets_pending"]
    assert len(pending) == 6
    world.storage.recover()
    assert world.redeliver() == 0
    assert set(pending) <= set(world.storage.objects)
    assert world.inbox.messages[-1].payload["status"] == "completed"
