"""Faults of the receiver of callbacks."""

from __future__ import annotations

from playground.callback_receiver import Answer
from tests.chaos.faults.registry import fault
from tests.chaos.faults.world import World, sdxl

PASSING = [*(Answer(status) for status in (500, 502, 504, 429, 408, 546)), Answer(503, {"Retry-After": "0"}), Answer(reset=True)]
LASTING = ([Answer(404)], [Answer(401)], [Answer(301)], [Answer(reset=True)] * 50)


@fault("F37", "The receiver answers 500, 502, 503, 504, 429, 408, 546 or not at all, and then 200", "told once, under one id")
def _(world: World) -> None:
    for index, trouble in enumerate(PASSING):
        world.answers(trouble)
        assert world.do(sdxl(f"F37-{index}"))["status"] == "completed"
        first, second = [message for message in world.inbox.messages if message.payload["job_id"] == f"F37-{index}"]
        assert first.body == second.body
        assert first.headers["webhook-id"] == second.headers["webhook-id"]


@fault("F38", "The receiver is gone, or answers 404, 401, 301", "the payload is RunPod's all the same, and is delivered later")
def _(world: World) -> None:
    for index, answers in enumerate(LASTING):
        world.answers(*answers)
        output = world.do(sdxl(f"F38-{index}"))
        assert output["status"] == "completed"
        assert output.get("callback_pending") is True
        world.inbox.recover()
        before = len(world.inbox.messages)
        assert world.redeliver() == 0
        assert [message.payload for message in world.inbox.messages[before:]] == [
            {name: output[name] for name in output if name != "callback_pending"}
        ]


@fault("F39", "A receiver that is too slow to be waited for, and has acted all the same", "told again under the same id, by which it knows")
def _(world: World) -> None:
    world.answers(Answer(delay=4.0))
    output = world.do(sdxl("F39"))
    assert output.get("callback_pending") is True
    assert world.redeliver() == 0
    first, second = [message for message in world.inbox.messages if message.payload["job_id"] == "F39"]
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body


@fault("F40", "Results that are no JSON, or are too large for RunPod", "failed with a code and a sentence, never posted to be lost")
def _(world: World) -> None:
    with world.own_worker("paint") as worker:
        for verb, code in (("infinitely", "INTERNAL_ERROR"), ("hugely", "GENERATION_ERROR")):
            output = worker.do(sdxl(f"F40-{verb}", prompt=f"{verb} heron"))
            assert output["metadata"].get("error_code") == code
        assert worker.do(sdxl("F40-then", prompt="paint heron"))["status"] == "completed"
