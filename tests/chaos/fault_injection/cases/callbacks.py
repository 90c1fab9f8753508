"""Faults of the callback receiver."""

from __future__ import annotations

from playground.callback_receiver import CannedResponse
from tests.chaos.fault_injection.harness import Harness, sdxl
from tests.chaos.fault_injection.registry import fault

TRANSIENT_RESPONSES = [CannedResponse(status) for status in (500, 502, 504, 429, 408, 546)]
TRANSIENT_RESPONSES += [CannedResponse(503, {"Retry-After": "0"}), CannedResponse(reset=True)]
PERMANENT_RESPONSES = ([CannedResponse(404)], [CannedResponse(401)], [CannedResponse(301)], [CannedResponse(reset=True)] * 50)


@fault(
    "F37",
    "A receiver that responds with 500, 502, 503, 504, 429, 408, 546 or a reset, and then with 200",
    "the same callback, retried under one id",
)
def _(harness: Harness) -> None:
    for index, response in enumerate(TRANSIENT_RESPONSES):
        harness.set_callback_responses(response)
        assert harness.run_job(sdxl(f"F37-{index}"))["status"] == "completed"
        first, second = [message for message in harness.receiver.messages if message.payload["job_id"] == f"F37-{index}"]
        assert first.body == second.body
        assert first.headers["webhook-id"] == second.headers["webhook-id"]


@fault(
    "F38", "A receiver that is unavailable, or responds with 404, 401, 301", "RunPod receives the payload; the callback is delivered later"
)
def _(harness: Harness) -> None:
    for index, responses in enumerate(PERMANENT_RESPONSES):
        harness.set_callback_responses(*responses)
        output = harness.run_job(sdxl(f"F38-{index}"))
        assert output["status"] == "completed"
        assert output.get("callback_pending") is True
        harness.receiver.recover()
        before = len(harness.receiver.messages)
        assert harness.redeliver() == 0
        assert [message.payload for message in harness.receiver.messages[before:]] == [
            {name: output[name] for name in output if name != "callback_pending"}
        ]


@fault(
    "F39", "A receiver that has processed the callback but responds after the deadline", "redelivered under the same id, for deduplication"
)
def _(harness: Harness) -> None:
    harness.set_callback_responses(CannedResponse(delay=4.0))
    output = harness.run_job(sdxl("F39"))
    assert output.get("callback_pending") is True
    assert harness.redeliver() == 0
    first, second = [message for message in harness.receiver.messages if message.payload["job_id"] == "F39"]
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body


@fault("F40", "Results that are not strict JSON, or too large for RunPod", "failed with a code and a message that RunPod accepts")
def _(harness: Harness) -> None:
    with harness.dedicated_worker("stub") as worker:
        for verb, code in (("infinitely", "INTERNAL_ERROR"), ("hugely", "GENERATION_ERROR")):
            output = worker.run_job(sdxl(f"F40-{verb}", prompt=f"{verb} heron"))
            assert output["metadata"].get("error_code") == code
        assert worker.run_job(sdxl("F40-next", prompt="a heron"))["status"] == "completed"
