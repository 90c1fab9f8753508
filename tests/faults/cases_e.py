"""Faults of the receiver of callbacks."""

from __future__ import annotations

from playground.inbox import Answer
from tests.faults.registry import fault
from tests.faults.world import World, sdxl


@fault("F37", "The receiver answers 500, 502, 503, 504, 429, 408, 546 or not at all, and then 200", "told once, under one id")
def _(world: World) -> None:
    troubles = [Answer(status) for status in (500, 502, 504, 429, 408, 546)]
    troubles += [Answer(503, {"Retry-After": "0"}), Answer(reset=True)]
    for index, trouble in enumerate(troubles):
        world.answers(trouble)
        assert world.do(sdxl(f"F37-{index}"))["status"] == "completed"
        first, second = [message for message in world.inbox.messages if message.payload["job_id"] == f"F37-{index}"]
        assert first.body == second.body
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
