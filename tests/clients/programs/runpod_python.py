"""RunPod's Python client, which sends the contract's own form. See `tests/clients/test_clients.py`."""

from __future__ import annotations

import json
import sys
from typing import Any

import runpod

MESSAGES: list[dict[str, Any]] = [{"role": "system", "content": "Name birds."}, {"role": "user", "content": "hello"}]
BIRD = {
    "type": "object",
    "properties": {"name": {"enum": ["heron", "swan"]}, "wild": {"type": "boolean"}},
    "required": ["name", "wild"],
    "additionalProperties": False,
}
PARAMETERS = {"type": "object", "properties": {"at": {"enum": ["bay", "lake"]}}, "required": ["at"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "look", "description": "Looks at a place.", "parameters": PARAMETERS}}]


def request(**changes: Any) -> dict[str, Any]:
    return {"input": {"messages": MESSAGES, "temperature": 0, **changes}}


def payload_of(output: Any) -> Any:
    """Returns the payload; a worker that streams to RunPod has a list of outputs."""
    return output[-1] if isinstance(output, list) else output


def summary(payload: Any) -> dict[str, Any]:
    finish = payload["assets"][0]["metadata"]["finish_reason"]
    return {"text": payload["response"], "finish": finish, "tokens": payload["usage"]["completion_tokens"]}


def plain(endpoint: Any) -> dict[str, Any]:
    return summary(payload_of(endpoint.run_sync(request(max_tokens=20))))


def streamed(endpoint: Any) -> dict[str, Any]:
    *deltas, payload = endpoint.run(request(max_tokens=20, stream=True)).stream()
    return summary(payload) | {"text": "".join(delta["delta"] for delta in deltas)}


def structured(endpoint: Any) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "bird", "schema": BIRD}}
    bird: dict[str, Any] = json.loads(payload_of(endpoint.run_sync(request(response_format=form)))["response"])
    return bird


def tools(endpoint: Any) -> dict[str, Any]:
    asset = payload_of(endpoint.run_sync(request(tools=TOOLS, tool_choice="required")))["assets"][0]
    calls = asset["metadata"]["tool_calls"]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "a heron"} for call in calls]
    history = [*MESSAGES, {"role": "assistant", "content": asset["content"], "tool_calls": calls}, *results]
    followed = payload_of(endpoint.run_sync(request(messages=history, tools=TOOLS, max_tokens=20)))
    function = calls[0]["function"]
    return {"name": function["name"], "arguments": json.loads(function["arguments"]), "followed": summary(followed)["finish"]}


def error(endpoint: Any) -> dict[str, Any]:
    job = endpoint.run(request(seed=-1))
    job.output(timeout=60)
    return {"status": job.status(), "message": job.rp_client.get(f"chat/status/{job.job_id}")["error"]}


def stream_error(endpoint: Any) -> dict[str, Any]:
    *_, last = endpoint.run(request(seed=-1, stream=True)).stream()
    return {"message": last["error_message"]}


if __name__ == "__main__":
    runpod.endpoint_url_base = sys.argv[1]
    scenarios = (plain, streamed, structured, tools, error, stream_error)
    json.dump({scenario.__name__: scenario(runpod.Endpoint("chat", api_key="any")) for scenario in scenarios}, sys.stdout)
